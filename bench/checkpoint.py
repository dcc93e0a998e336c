"""A synthetic Llama checkpoint in shards, its tokenizer, an adapter, and recipes for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NEW = ("<new-1>", "<new-2>", "<new-3>", "<new-4>")
SHARDS = 8
_WORDS = "the quick brown fox jumps over the lazy dog and runs through the green woods "


@dataclass(frozen=True)
class Size:
    """The shape of a model.

    Attributes:
        hidden: width of the residual stream.
        inner: width inside the feed-forward part.
        layers: number of layers.
        vocabulary: rows of the embedding and of the head, which is not tied to it.
        heads: attention heads, as many for keys and values.
    """

    hidden: int = 2048
    inner: int = 5632
    layers: int = 36
    vocabulary: int = 32000
    heads: int = 16

    def config(self) -> dict[str, int | bool]:
        """Give the numbers of a Llama configuration."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        }


FULL = Size()
"""4.0 GB in bfloat16."""

HALF = Size(layers=18)
"""2.1 GB in bfloat16."""

QUICK = Size(hidden=1024, inner=2816, layers=9, vocabulary=16000)
"""0.3 GB in bfloat16."""


def write_base(folder: Path, size: Size) -> int:
    """Write a checkpoint of random bfloat16 weights in eight shards, with a tokenizer.

    Returns:
        The size of its weight files in bytes.
    """
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder.mkdir(parents=True)
    config = LlamaConfig(**size.config(), dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    _tokenizer(size.vocabulary).save_pretrained(folder)
    pool = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    listed, total = {}, 0
    for number, names in enumerate(_split(_shapes(size)), 1):
        file = f"model-{number:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {name: _values(pool, name, shape) for name, shape in names.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        listed |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _shapes(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (size.vocabulary, size.hidden)
    square, up, down = (size.hidden,) * 2, (size.inner, size.hidden), (size.hidden, size.inner)
    for layer in range(size.layers):
        at = f"model.layers.{layer}"
        yield from ((f"{at}.self_attn.{name}.weight", square) for name in TARGETS[:4])
        yield from ((f"{at}.mlp.{name}.weight", up) for name in TARGETS[4:6])
        yield f"{at}.mlp.down_proj.weight", down
        yield f"{at}.input_layernorm.weight", (size.hidden,)
        yield f"{at}.post_attention_layernorm.weight", (size.hidden,)
    yield "model.norm.weight", (size.hidden,)
    yield "lm_head.weight", (size.vocabulary, size.hidden)


def _split(
    shapes: Iterator[tuple[str, tuple[int, ...]]],
) -> list[dict[str, tuple[int, ...]]]:
    """Split tensors in order into shards of about one size."""
    given = dict(shapes)
    share = sum(map(prod, given.values())) / SHARDS
    groups: list[dict[str, tuple[int, ...]]] = [{} for _ in range(SHARDS)]
    done = 0
    for name, shape in given.items():
        groups[min(int(done / share), SHARDS - 1)][name] = shape
        done += prod(shape)
    return groups


def _values(pool: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """Take a stretch of random numbers that starts elsewhere for each name."""
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    start = sum(map(ord, name)) * 7919 % len(pool)
    count = -(-(prod(shape) + start) // len(pool))
    return pool.repeat(count)[start : start + prod(shape)].reshape(shape).clone()


def _tokenizer(size: int) -> object:
    """Train a small tokenizer, and fill its vocabulary up."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([_WORDS * 9], trainer)
    data = json.loads(made.to_str())
    words = data["model"]["vocab"]
    words |= {f"<unused-{number}>": number for number in range(len(words), size)}
    whole = Tokenizer.from_str(json.dumps(data))
    names = dict(zip(("bos_token", "eos_token", "pad_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=whole, **names)


def write_recipes(folder: Path, base: Path) -> dict[str, Path]:
    """Write the recipes of a token resize and of an additive LoRA; JSON is YAML."""
    lora = {"use": "lora", "at": {"path": [f"**.{name}" for name in TARGETS]}}
    lora |= {"with": {"rank": 16, "alpha": 32}}
    steps = {"resize": {"use": "tokens", "with": {"add": list(NEW)}}, "lora": lora}
    made = {}
    for name, step in steps.items():
        save = "full" if name == "resize" else "changed"
        recipe = {
            "recipe": 1,
            "patient": {"source": "hf", "path": str(base)},
            "surgeries": [step],
            "output": {"path": f"./{name}", "save": save},
        }
        made[name] = folder / f"{name}.yaml"
        made[name].write_text(json.dumps(recipe))
    return made


def write_adapter(recipe: Path, folder: Path) -> None:
    """Apply a LoRA recipe, for PEFT too, and fill its B matrices as training would."""
    from surgery.checkpoint.manifest import write_manifest

    command = [sys.executable, "-m", "surgery", "apply", str(recipe), "--stream", "--quiet"]
    command += ["--output", str(folder), "--set", "output.also=[peft]"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for file in sorted(folder.rglob("*.safetensors")):
        _train(file)
    write_manifest(folder)


def _train(file: Path) -> None:
    """Fill each B of a file with numbers that depend on the module's name alone."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    for name, tensor in tensors.items():
        if "lora_b" in name.lower():
            at = name.lower().partition(".lora_b")[0].removeprefix("base_model.model.")
            seed = int.from_bytes(at.encode(), "big") % (1 << 62)
            drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
            tensors[name] = (drawn * 0.01).to(tensor.dtype)
    save_file(tensors, file, metadata={"format": "pt"})


def bytes_of(folder: Path) -> Mapping[str, int]:
    """Give the size of each weight file of a folder."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
