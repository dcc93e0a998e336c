"""Modules that are replaced by another kind: what must hold whatever the model."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.cli import main
from surgery.errors import SurgeryError
from tests.layers import models
from tests.layers.models import answers, generated
from tests.rope import kit


def made(build: Callable[[], Any]) -> Any:
    """Give a model all of whose vectors are drawn too, weights of norms among them."""
    model = models.made(build)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(0.3, 0.5)
    return model


def swap(at: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"use": "swap", "with": options, **({"at": at} if at else {})}


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "t5", "qwen3"])
def test_a_norm_that_computes_the_same_answers_alike(name: str) -> None:
    model = made(getattr(models, name))
    before, bits = answers(model), kit.bits(model)
    with surgery.apply(model, swap(norm="rms_norm")) as applied:
        assert applied.plan.steps[0].step.surgery.at_init == "close"
        kinds = {type(module).__name__ for module in model.modules()}
        assert "RMSNorm" in kinds
        assert not any(kind.endswith("RMSNorm") and kind != "RMSNorm" for kind in kinds)
        assert close(answers(model), before)
    assert kit.same_bits(bits, kit.bits(model))
    assert torch.equal(answers(model), before)


def test_weights_keep_their_meaning() -> None:
    model = made(models.gemma3)  # its norms multiply with 1 + weight
    old = model.model.norm.weight.clone()
    with surgery.apply(model, swap(norm="rms_norm")):
        assert torch.equal(model.model.norm.weight, 1 + old)
    model = made(models.llama)
    old = model.model.norm.weight.clone()
    with surgery.apply(model, swap({"path": "model.norm"}, norm="layer_norm")) as applied:
        assert applied.plan.steps[0].step.surgery.at_init == "changed"
        norm = model.model.norm
        assert torch.equal(norm.weight, old)
        assert not norm.bias.any()
        assert norm.eps == model.config.rms_norm_eps
    model = made(models.vit)
    with surgery.apply(model, swap(norm="rms_norm", drop_bias=True)):
        assert isinstance(model.vit.layernorm, nn.RMSNorm)
        assert not torch.equal(answers(model), answers(made(models.vit)))


def test_matrices_are_transposed_and_answer_alike() -> None:
    model = made(models.gpt2)
    before, old = answers(model), model.transformer.h[0].attn.c_attn.weight.clone()
    with surgery.apply(model, [swap(matrix="linear")]):
        linear = model.transformer.h[0].attn.c_attn
        assert type(linear) is nn.Linear
        assert torch.equal(linear.weight, old.T)
        assert close(answers(model), before)
        assert torch.equal(generated(model, True), generated(model, False))
        with surgery.apply(model, swap({"path": "transformer.h.**"}, matrix="conv1d")):
            assert torch.equal(model.transformer.h[0].attn.c_attn.weight, old)
            assert torch.equal(answers(model), before)


def test_an_activation_is_what_the_configuration_then_builds() -> None:
    model = made(models.llama)
    with surgery.apply(model, swap(activation="gelu_pytorch_tanh")) as applied:
        assert model.config.hidden_act == "gelu_pytorch_tanh"
        kit.assert_as_fresh(model)
        fresh = type(model)(model.config).eval()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(answers(fresh), answers(model))
        assert not any("surgery.load" in note for note in applied.plan.steps[0].notes)
    assert model.config.hidden_act == "silu"


def test_towers_are_told_apart() -> None:
    model = made(models.clip)
    with surgery.apply(model, swap({"tower": "vision"}, activation="gelu")):
        assert model.config.vision_config.hidden_act == "gelu"
        assert model.config.text_config.hidden_act == "quick_gelu"
    with surgery.apply(model, swap({"tower": "vision"}, attention="eager")):
        assert model.config.vision_config._attn_implementation == "eager"
        assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_what_the_configuration_cannot_say_is_said() -> None:
    model = made(models.llama)
    before = answers(model)
    with surgery.apply(model, swap({"layers": 0}, activation="gelu")) as applied:
        assert model.config.hidden_act == "silu"
        assert any("surgery.load" in note for note in applied.plan.steps[0].notes)
        assert not torch.equal(answers(model), before)


@pytest.mark.parametrize("name", ["llama", "t5", "clip", "gpt2"])
def test_attention_is_computed_otherwise_and_answers_alike(name: str) -> None:
    model = made(getattr(models, name))
    before = answers(model)
    with surgery.apply(model, swap(attention="eager")):
        held = {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")}
        assert held == {"eager"}
        assert close(answers(model), before)
    held = {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")}
    assert held == {"sdpa"}


def test_the_flags_of_what_is_replaced_stay() -> None:
    model = made(models.llama).train()
    model.model.norm.weight.requires_grad_(False)
    with surgery.apply(model, swap(norm="rms_norm")):
        assert not model.model.norm.weight.requires_grad
        assert model.model.layers[0].input_layernorm.weight.requires_grad
        assert all(module.training for module in model.modules())


TRIPS: dict[str, tuple[Callable[[], Any], Any]] = {
    "gemma3 norms": (models.gemma3, swap(norm="rms_norm")),
    "vit norms": (models.vit, swap(norm="rms_norm", drop_bias=True)),
    "gpt2 matrices": (models.gpt2, swap(matrix="linear")),
    "llama activation": (models.llama, swap(activation="gelu")),
    "llama attention": (models.llama, swap(attention="eager")),
    "t5 attention": (models.t5, swap(attention="eager")),
    "bf16 norms": (lambda: models.llama(dtype=torch.bfloat16), swap(norm="rms_norm")),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(TRIPS)[1:]]


@pytest.mark.parametrize("name", [next(iter(TRIPS)), *SLOW])
def test_live_streamed_loaded_and_replayed_are_equal(name: str, tmp_path: Path) -> None:
    build, step = TRIPS[name]
    model = made(build)
    model.save_pretrained(tmp_path / "base")
    with surgery.apply(model, step) as applied:
        assert all(pickle.dumps(slot.value) for slot in applied.plan.slots.values())
        wanted = answers(model)
        for way in ("live", "stream"):
            loaded = surgery.load(kit._applied(step, tmp_path, f"{way}-changed", {}))
            kit._assert_equal(loaded.model, model)
            assert torch.equal(answers(loaded.model), wanted)
        if applied.plan.slots:
            kit._assert_equal_files(tmp_path / "live-changed", tmp_path / "stream-changed")
    kit.run("undo", tmp_path / "stream-changed", "--into", tmp_path / "undone", "--quiet")
    kit._assert_equal(type(model).from_pretrained(tmp_path / "undone", dtype="auto"), model)


LORA = {"use": "lora", "at": {"path": "**.c_attn"}}
REFUSED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "two kinds": (models.llama, swap(norm="rms_norm", activation="gelu"), "one of norm"),
    "no kind": (models.llama, swap(), "one of norm"),
    "a bias": (models.vit, swap(norm="rms_norm"), "drop_bias: true"),
    "there already": (models.vit, swap(norm="layer_norm"), "another norm than LayerNorm"),
    "no norm": (models.llama, swap({"path": "lm_head"}, norm="rms_norm"), "no norm"),
    "unknown": (models.llama, swap(activation="gelo"), "did you mean 'gelu'"),
    "not supported": (models.llama, swap(attention="sdpb"), "a way that the class supports"),
    "some layers": (
        models.llama, swap({"layers": 0}, attention="eager"), "layers.1.self_attn reads the same"
    ),
    "as it is": (models.llama, swap(attention="sdpa"), "another way than the present"),
    "adapted": (models.gpt2, [LORA, {**swap(matrix="linear"), "overlap": True}], "extended|Conv1D"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(name: str) -> None:
    build, steps, reason = REFUSED[name]
    model = made(build)
    before, config = kit.bits(model), model.config.to_dict()
    with pytest.raises(SurgeryError, match=reason):
        surgery.apply(model, steps)
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


class Odd(nn.Module):
    """A norm of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.abs().amax(-1, keepdim=True) + self.eps) * self.weight


def test_a_norm_that_computes_something_else_is_refused() -> None:
    class OddNorm(Odd):
        pass

    model = nn.Sequential(nn.Linear(8, 8), OddNorm())
    with pytest.raises(SurgeryError, match="which gives neither"):
        surgery.apply(model, swap({"path": "1"}, norm="rms_norm"))


def recipe_of(folder: Path, step: dict[str, Any], save: str) -> Path:
    models.made(models.llama).save_pretrained(folder / "base")
    recipe = {
        "recipe": 1, "patient": {"source": "hf", "path": "./base"}, "surgeries": [step],
        "output": {"path": "./out", "save": save},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


SILENT = {
    "some layers": (swap({"layers": 0}, activation="gelu"), "is GELUActivation.*builds SiLU"),
    "another norm": (
        swap({"path": "model.norm"}, norm="layer_norm"),
        r"model\.norm\.bias.*builds none",
    ),
}


@pytest.mark.parametrize("command", ["plan", "apply"])
@pytest.mark.parametrize("name", SILENT)
def test_a_whole_model_that_plain_loaders_would_read_as_another_is_refused(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step, told = SILENT[name]
    recipe = recipe_of(tmp_path, step, "full")
    assert main([command, str(recipe)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(told, error), error
    assert "write `output.save: changed`" in error
    assert not (tmp_path / "out").exists()
    assert main([command, str(recipe), "--set", "output.save=changed"]) == 0


@pytest.mark.parametrize(
    "step", [swap(activation="gelu"), swap(norm="rms_norm"), swap(attention="eager")], ids=str
)
def test_a_whole_model_that_its_configuration_describes_answers_alike_when_read_plainly(
    step: dict[str, Any], tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, step, "full")
    assert main(["apply", str(recipe), "--quiet"]) == 0
    plain = type(models.llama()).from_pretrained(tmp_path / "out")
    assert close(answers(plain), answers(surgery.load(tmp_path / "out").model))
