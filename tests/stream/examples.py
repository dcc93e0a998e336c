"""For every built-in surgery a model and steps that make values in each way that it has."""

from __future__ import annotations

from typing import Any

from tests.resampler.kit import PATHS, SIZES
from tests.resampler.kit import llava as llava_of_resampler
from tests.rope import kit as rope
from tests.stream.models import MODELS
from tests.tokens.kit import patient as with_tokenizer

QV = {"role": ["attention.q", "attention.v"]}
ADAPTERS = [
    {"use": "lora", "at": QV, "with": {"rank": 2, "adapter": name, "init": init}}
    for name, init in (("one", "gaussian"), ("two", "orthogonal"))
]
FUSE = {"use": "fuse", "at": {"role": ["attention.q", "attention.k", "attention.v"]}}
EXAMPLES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "attach": ("llama", [{"use": "attach", "at": {"path": "model.layers.0"}, "with": {
        "called": "side", "module": {"use": "linear", "out": 3}}}]),
    "cast": ("llama", [{"use": "cast", "with": {"dtype": "bfloat16"}}]),
    "freeze": ("llama", [{"use": "freeze"}]),
    "unfreeze": ("llama", [{"use": "freeze"}, {"use": "unfreeze", "with": {"rows": "3-5"},
                           "at": {"path": "model.embed_tokens"}}]),
    "fuse": ("llama", [FUSE]),
    "head": ("vit", [{"use": "head", "with": {"labels": 5}}]),
    "layers": ("llama", [{"use": "layers", "at": {"layers": "1"}, "with": {"do": "insert"}}]),
    "lean": ("llama", [{"use": "lean"}]),
    "lora": ("llama", [{"use": "lora", "at": QV, "with": {"dora": True, "rank": 2}}, *(
        {"use": "lora", "at": {"path": f"**.{place}"},
         "with": {"rank": 2, "adapter": init, "init": init}, "overlap": True}
        for init, place in {"pissa": "up_proj", "olora": "down_proj", "loftq": "gate_proj",
                            "orthogonal": "o_proj", "gaussian": "embed_tokens"}.items())]),
    "lora-combine": ("llama", [*ADAPTERS, {"use": "lora-combine", "with": {
        "weights": {"one": 1.0, "two": 0.5}, "into": "new", "how": "ties_svd", "density": 0.5,
        "rank": 2}}]),
    "merge": ("llama", [*ADAPTERS, {"use": "merge"}]),
    "patch_embed": (rope.vit, [{"use": "patch_embed", "with": {"patch_size": 16, "channels": 4}}]),
    "peft": ("llama", [{"use": "peft", "at": {"path": "**.q_proj"}, "with": {"method": "lokr"}}]),
    "pos_embed": (rope.vit, [{"use": "pos_embed", "with": {"image_size": 48}}]),
    "resampler": (llava_of_resampler, [{"use": "resampler", "at": {"path": PATHS["llava"]},
        "with": {
        "kind": "mlp", "sizes": SIZES["mlp"]}}]),
    "rope": ("llama", [{"use": "rope", "with": {"scaling": {"type": "linear", "factor": 2.0}}}]),
    "swap": ("gpt2 (Conv1D, tied)", [{"use": "swap", "with": {"matrix": "linear"}}]),
    "tensors": ("llama", [{"use": "tensors", "with": {
        "do": "scale", "names": "**.norm.weight", "by": 0.5}}]),
    "tokens": (with_tokenizer, [{"use": "tokens", "with": {
        "add": ["<a>", {"content": "<b>", "init": {"text": "the cat"}}], "init": "pieces"}}]),
    "unfuse": ("gpt-neox (fused)", [{"use": "unfuse", "at": {"role": "attention.qkv"}}]),
    "untie": ("llama tied", [{"use": "untie", "at": {"path": "lm_head"}}]),
}  # fmt: skip

KEEPING = {"cast", "freeze", "lean"}
"""Surgeries that compute no values: they keep tensors, or change none."""


def example(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """Give the patient and the steps of a surgery's example."""
    missing = f"no example of the surgery {name!r}: add one to EXAMPLES in {__file__}"
    assert name in EXAMPLES, missing
    model, steps = EXAMPLES[name]
    return MODELS[model]() if isinstance(model, str) else model(), steps
