"""Adapters go to PEFT and come back with equal outputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import PatientError, Problems, RefusedError, SurgeryError

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from surgery_plugins.peft.export import export_adapter  # noqa: E402
from surgery_plugins.peft.read import load_peft  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-6
IDS = torch.tensor([[1, 5, 7, 3]])
X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Any] = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}


def llama() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **shape, **heads))


def mixtral() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SMALL, **shape, **heads))


def gpt2() -> nn.Module:
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **shape))


def neox() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.GPTNeoXConfig(**SMALL, **shape, num_attention_heads=4)
    return transformers.GPTNeoXForCausalLM(config)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


def answer(model: nn.Module) -> torch.Tensor:
    found = dict(model.named_modules())
    with torch.no_grad():
        if any(isinstance(module, nn.MultiheadAttention) for module in found.values()):
            return model(X)
        if any(isinstance(module, nn.Conv2d) for module in found.values()):
            return model(IMAGE)
        return model(input_ids=IDS).logits


def stir(model: nn.Module) -> None:
    """Train without training: every adapter tensor gets other values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1


QV = ["attention.q", "attention.v"]
OUT: list[tuple[str, Callable[[], nn.Module], dict[str, Any], dict[str, Any]]] = [
    ("linear", llama, {"role": ["attention.q", "mlp.down"]}, {"alpha": 8}),
    ("last layer", llama, {"role": QV, "layers": "-1"}, {}),
    ("rank pattern", llama, {"role": QV}, {"rank_pattern": {"attention.q": 2}}),
    ("alpha pattern", llama, {"role": QV}, {"alpha_pattern": {"**.layers.1.**": 3}}),
    ("rslora", llama, {"role": QV}, {"alpha": 8, "rslora": True}),
    ("dora", llama, {"role": ["attention.k", "head"]}, {"dora": True}),
    ("rslora and dora", llama, {"role": QV}, {"dora": True, "rslora": True}),
    ("dropout", llama, {"role": QV}, {"dropout": 0.1}),
    ("embedding", llama, {"role": "embedding"}, {}),
    ("fan in fan out", gpt2, {"role": ["attention.proj", "mlp.up"]}, {}),
    ("fan in fan out dora", gpt2, {"role": "attention.proj"}, {"dora": True}),
    ("rows, contiguous", gpt2, {"role": QV}, {}),
    ("rows, interleaved", neox, {"role": QV}, {"alpha_pattern": {"attention.v": 7}}),
    ("rows of unequal rank", neox, {"role": QV}, {"rank_pattern": {"attention.v": 2}}),
    ("experts", mixtral, {"role": "mlp.down"}, {}),
    ("experts, rows and both", mixtral, {"role": ["mlp.up", "mlp.down"]}, {}),
    ("attention in projection", Attention, {"role": QV}, {}),
    ("convolution", Convolutions, {"path": ["a", "b"]}, {"rank": 3}),
    ("convolution dora", Convolutions, {"path": ["a", "b"]}, {"rank": 3, "dora": True}),
    ("gaussian", llama, {"role": QV}, {"init": "gaussian"}),
]


@pytest.mark.parametrize(("make", "at", "options"), [c[1:] for c in OUT], ids=[c[0] for c in OUT])
def test_peft_loads_what_is_exported(
    make: Callable[[], nn.Module], at: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    base = copy.deepcopy(model)
    inputs = {"x": X} if make is Attention else None
    applied = surgery.apply(
        model, {"use": "lora", "at": at, "with": {"rank": 4, **options}}, inputs=inputs
    )
    plain = answer(base)
    assert torch.equal(answer(model), plain)
    stir(model)
    export_adapter(model, "default", tmp_path)
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    wanted = answer(model)
    assert (wanted - plain).abs().max() > 1e-4
    assert (answer(theirs) - wanted).abs().max() <= TOLERANCE
    applied.undo()
    assert torch.equal(answer(model), plain)


BACK: list[tuple[str, Callable[[], nn.Module], dict[str, Any]]] = [
    ("linear", llama, {"target_modules": ["q_proj", "down_proj"]}),
    ("all linear", llama, {"target_modules": "all-linear"}),
    (
        "patterns",
        llama,
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"layers.1.mlp.down_proj": 5},
        },
    ),
    ("rslora", llama, {"target_modules": ["v_proj"], "lora_alpha": 16, "use_rslora": True}),
    ("dora", llama, {"target_modules": ["v_proj"], "use_dora": True}),
    ("embedding", llama, {"target_modules": ["embed_tokens"]}),
    ("fan in fan out", gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ("convolution", Convolutions, {"target_modules": ["a", "b"]}),
]


def saved(make: Callable[[], nn.Module], folder: Path, **config: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    base = make().eval()
    options = {"r": 3, "init_lora_weights": False, **config}
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**options)).eval()
    theirs.save_pretrained(str(folder))
    return base, theirs


@pytest.mark.parametrize(("make", "config"), [c[1:] for c in BACK], ids=[c[0] for c in BACK])
def test_an_adapter_of_peft_loads_here(
    make: Callable[[], nn.Module], config: dict[str, Any], tmp_path: Path
) -> None:
    base, theirs = saved(make, tmp_path, **config)
    plain = answer(base)
    applied = load_peft(base, tmp_path)
    wanted = answer(theirs)
    assert (wanted - plain).abs().max() > 1e-4
    assert (answer(base) - wanted).abs().max() <= TOLERANCE
    applied.undo()
    assert torch.equal(answer(base), plain)


def test_an_adapter_whose_keys_match_nothing_changes_nothing(tmp_path: Path) -> None:
    saved(llama, tmp_path, target_modules=["q_proj"])
    other = gpt2().eval()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(Problems, match="a module of the model"):
        load_peft(other, tmp_path)
    after = other.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(after) == set(before)


def test_an_adapter_of_another_shape_changes_nothing(tmp_path: Path) -> None:
    saved(llama, tmp_path, target_modules=["q_proj"])
    wide = transformers.LlamaConfig(
        **SMALL, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.LlamaForCausalLM(wide)
    with pytest.raises(Problems, match="shape"):
        load_peft(model, tmp_path)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_an_embedding_of_another_base_is_refused(tmp_path: Path) -> None:
    base, _ = saved(llama, tmp_path, target_modules=["embed_tokens"])
    with torch.no_grad():
        base.model.embed_tokens.weight += 1
    with pytest.raises(PatientError, match="other values"):
        load_peft(base, tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"peft_type": "IA3"}, PatientError),
        ({"modules_to_save": ["lm_head"]}, RefusedError),
        ({"bias": "all"}, RefusedError),
    ],
)
def test_what_cannot_be_expressed_is_refused(
    change: dict[str, Any], error: type[SurgeryError], tmp_path: Path
) -> None:
    base, _ = saved(llama, tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(error):
        load_peft(base, tmp_path)


def test_the_out_projection_of_attention_is_refused_because_peft_adds_it_twice(
    tmp_path: Path,
) -> None:
    model = Attention().eval()
    surgery.apply(model, {"use": "lora", "at": {"path": "attn.out_proj"}, "with": {"rank": 2}})
    with pytest.raises(RefusedError, match="applied twice"):
        export_adapter(model, "default", tmp_path)
