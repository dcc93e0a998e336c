"""Layers that are dropped, moved, repeated and inserted: what must hold whatever the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.errors import SurgeryError
from tests.layers import models
from tests.layers.models import FULL, SLIDING, answers, generated, made
from tests.rope import kit


def step(at: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"use": "layers", "with": options, **({"at": at} if at else {})}


MOVED = step(order=[3, "0-1", 1])
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "llama drop": (models.llama, step({"layers": "1-2"}, do="drop")),
    "llama tied": (lambda: models.llama(tie_word_embeddings=True), MOVED),
    "llama bf16": (lambda: models.llama(dtype=torch.bfloat16), MOVED),
    "llama insert": (models.llama, step({"layers": "1-3/2"}, do="insert")),
    "qwen3 moved": (models.qwen3, MOVED),
    "gemma3 repeat": (models.gemma3, step({"layers": [2, 3]}, do="repeat")),
    "qwen2-moe moved": (models.qwen2_moe, step(order=[2, 0, 1, 1])),
    "bart encoder repeat": (models.bart, step({"tower": "encoder", "layers": 0}, do="repeat")),
    "smollm3 keep": (models.smollm3, step({"layers": ["0", "2-3"]}, do="keep")),
    "gpt2 insert": (models.gpt2, step({"layers": "-1"}, do="insert")),
    "t5 decoder first dropped": (models.t5, step({"tower": "decoder", "layers": "0"}, do="drop")),
    "t5 encoder moved": (models.t5, step({"tower": "encoder"}, order=[2, 0, 1, 3])),
    "vit drop": (models.vit, step({"layers": "-1"}, do="drop")),
    "clip vision": (models.clip, step({"tower": "vision", "layers": "0"}, do="repeat")),
    "llava text": (models.llava, step({"tower": "text", "layers": "2-3"}, do="drop")),
}


FAST = ("llama insert",)
OFTEN = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES]


@pytest.mark.parametrize("name", OFTEN)
def test_live_streamed_loaded_and_plain_are_equal_and_undo_is_exact(
    name: str, tmp_path: Path
) -> None:
    build, what = CASES[name]
    model = made(build)
    loaded = kit.round_trip(model, what, tmp_path)
    assert torch.equal(answers(model), answers(made(build)))
    if hasattr(loaded, "generate") and "llava" not in name and "clip" not in name:
        assert torch.equal(generated(loaded, True), generated(loaded, False))


GENERATES = ["llama", "qwen3", "gemma3", "qwen2_moe", "mixtral", "smollm3", "gpt2", "t5"]


def test_stacked_experts_move_in_memory_alone_and_that_is_said(tmp_path: Path) -> None:
    what = step({"layers": "0"}, do="insert")
    model = made(models.mixtral)
    model.save_pretrained(tmp_path / "base")
    for way in ("live", "stream"):
        kit._applied(what, tmp_path, f"{way}-changed", {})
    kit._assert_equal_files(tmp_path / "live-changed", tmp_path / "stream-changed")
    with pytest.raises(SurgeryError, match="another form"):
        kit._applied(what, tmp_path, "stream-full", {})
    kit._applied(what, tmp_path, "auto-full", {})
    plain = type(model).from_pretrained(tmp_path / "auto-full")
    assert torch.equal(answers(plain), answers(model))


@pytest.mark.parametrize("name", GENERATES)
def test_inserted_layers_change_no_bit(name: str) -> None:
    model = made(getattr(models, name))
    before = answers(model)
    at = {"layers": ["0", "2"], **({"tower": "encoder"} if name == "t5" else {})}
    with surgery.apply(model, step(at, do="insert")) as applied:
        assert torch.equal(answers(model), before)
        assert {slot.value.__class__.__name__ for slot in applied.plan.slots.values()} == {
            "Init", "Keep",
        }  # fmt: skip
        assert torch.equal(generated(model, True), generated(model, False))
    assert torch.equal(answers(model), before)


@pytest.mark.parametrize("name", GENERATES)
def test_moved_layers_hold_the_values_of_the_old_ones(name: str) -> None:
    model = made(getattr(models, name))
    tower = {"tower": "decoder"} if name == "t5" else None
    path = {"gpt2": "transformer.h", "t5": "decoder.block"}.get(name, "model.layers")
    old = [
        {n: p.clone() for n, p in layer.named_parameters()}
        for layer in model.get_submodule(path).children()
    ]
    with surgery.apply(model, step(tower, order=[3, 1, 0, 1])):
        new = list(model.get_submodule(path).children())
        for layer, source in zip(new, (3, 1, 0, 1), strict=True):
            for name_, parameter in layer.named_parameters():
                if "relative_attention_bias" not in name_:
                    assert torch.equal(parameter, old[source][name_])
        numbers = [
            {m.layer_idx for m in layer.modules() if getattr(m, "layer_idx", None) is not None}
            for layer in new
        ]
        assert numbers == [{0}, {1}, {2}, {3}]
        assert torch.equal(generated(model, True), generated(model, False))


def test_what_belongs_to_a_place_stays_there() -> None:
    model = made(models.t5)
    name = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    table = model.get_parameter(name).clone()
    with surgery.apply(model, step({"tower": "decoder"}, order=[3, 0])):
        held = [n for n, _ in model.decoder.named_parameters() if "relative" in n]
        assert [f"decoder.{n}" for n in held] == [name]
        assert torch.equal(model.get_parameter(name), table)
        flags = [b.layer[0].SelfAttention.has_relative_attention_bias for b in model.decoder.block]
        assert flags == [True, False]
        assert model.decoder.config.num_layers == 2
        assert model.encoder.config.num_layers == 4
    assert model.decoder.config.num_layers == 4


def test_every_list_of_the_configuration_follows() -> None:
    model = made(models.qwen2_moe)
    with surgery.apply(model, step(order=[1, 3, 1])):
        assert model.config.mlp_only_layers == [0, 2]
        assert model.config.num_hidden_layers == len(model.config.layer_types) == 3
    model = made(models.gemma3)
    with surgery.apply(model, step({"layers": [0]}, do="drop")):
        assert model.config.layer_types == [SLIDING, FULL, SLIDING]
        assert [layer.self_attn.is_sliding for layer in model.model.layers] == [True, False, True]
    model = made(models.llava)
    with surgery.apply(model, step({"tower": "vision", "layers": 0}, do="drop")):
        assert model.config.vision_config.num_hidden_layers == 2
        assert model.config.text_config.num_hidden_layers == 4
        assert model.model.vision_tower.config.num_hidden_layers == 2


def test_inserted_layers_train_and_the_others_keep_their_flags() -> None:
    model = made(models.llama)
    model.requires_grad_(False)
    with surgery.apply(model, step({"layers": 1}, do="insert")):
        trains = {n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad}
        assert trains == {"2"}
        model(models.ids(), labels=models.ids()).loss.backward()
        down = model.model.layers[2].mlp.down_proj.weight
        assert down.grad is not None
        assert bool((down.grad != 0).any())


def test_a_model_without_a_configuration_is_restacked_too() -> None:
    torch.manual_seed(0)
    model = Plain()
    x = torch.randn(2, 3, 8)
    old = [block.out.weight.clone() for block in model.blocks]
    with surgery.apply(model, step({"path": "blocks.*"}, order=[2, 0]), inputs={"x": x}):
        assert [block.number for block in model.blocks] == [0, 1]
        assert [block.first for block in model.blocks] == [False, True]
        assert torch.equal(model.blocks[0].out.weight, old[2])
        assert len(model.blocks) == 2
    assert len(model.blocks) == 3
    before = model(x)
    with surgery.apply(model, step({"path": "blocks.*"}, do="insert"), inputs={"x": x}):
        assert torch.equal(model(x), before)


class Block(torch.nn.Module):
    """One residual layer."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.first = number, number == 0
        self.lin, self.out = torch.nn.Linear(8, 12), torch.nn.Linear(12, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(torch.tanh(self.lin(x)))


class Plain(torch.nn.Module):
    """Three layers in a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Linear(8, 8)
        self.blocks = torch.nn.Sequential(*map(Block, range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x))


def step_decoder_sparse() -> Any:
    import transformers as t

    config = t.Qwen2MoeConfig(
        **models.TEXT, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, decoder_sparse_step=2,
    )  # fmt: skip
    return t.Qwen2MoeForCausalLM(config)


REFUSED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "nothing changes": (models.llama, step(order=["0-3"]), "another order of layers"),
    "nothing is left": (models.llama, step({"layers": "0-3"}, do="drop"), "at least one layer"),
    "out of range": (models.llama, step(order=["0-4"]), "layers from 0 to 3"),
    "two stacks": (models.t5, step({"layers": "0"}, do="drop"), "layers of one stack"),
    "no layer": (models.llama, step({"path": "lm_head"}, do="drop"), "no layer of a stack"),
    "both": (models.llama, step(do="drop", order=[0]), "one of do and order"),
    "zero without insert": (models.llama, step(do="drop", zero=["a"]), "zero"),
    "norm behind the sum": (models.bert, step({"layers": 0}, do="insert"), "gives its input back"),
    "zero is not enough": (
        models.llama, step({"layers": 0}, do="insert", zero=["mlp.down_proj.weight"]),
        "gives its input back",
    ),
    "a pattern the config cannot say": (
        step_decoder_sparse, step({"layers": 0}, do="drop"), "say under `config:`",
    ),
    "extended before": (
        models.llama, [{"use": "lora", "at": {"role": "attention.q"}}, MOVED], "overlap|extended",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(name: str) -> None:
    build, what, reason = REFUSED[name]
    model = made(build)
    before = kit.bits(model)
    config = model.config.to_dict()
    with pytest.raises(SurgeryError, match=reason):
        surgery.apply(model, what)
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_the_recipe_may_say_what_cannot_be_derived() -> None:
    model = made(step_decoder_sparse)
    more = {"decoder_sparse_step": 1, "mlp_only_layers": [1]}
    with surgery.apply(model, step({"layers": 0}, do="drop", config=more)):
        kinds = [type(layer.mlp).__name__ for layer in model.model.layers]
        assert kinds == ["Qwen2MoeSparseMoeBlock", "Qwen2MoeMLP", "Qwen2MoeSparseMoeBlock"]
        kit.assert_as_fresh(model)
