"""What cannot be attached is refused, with what was found and what would do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import SurgeryError
from tests.attach.kit import attach, plain
from tests.rope import kit as models

HEAD = {"use": "linear", "out": 3}


def tokens(**more: Any) -> dict[str, Any]:
    return {"use": "conv", "layout": "tokens", "channels": [4], "out": 1, **more}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "several sites": (attach("x", "vit.layers.*", HEAD), "one site.*2: vit.layers"),
    "a name of the model": (attach("vit", "vit.layernorm", HEAD), "attach.called: vit.*free"),
    "a method": (attach("forward", "vit.layernorm", HEAD), "attach.called: forward"),
    "a name of the output": (attach("logits", "vit.layernorm", HEAD), "attach.called: logits"),
    "no name": (attach("9", "vit.layernorm", HEAD), "called"),
    "a dot": (attach("a.b", "vit.layernorm", HEAD), "called"),
    "an unknown output": (
        attach("x", "vit", HEAD, output="last_hiden_state"), "did you mean 'last_hidden_state'",
    ),
    "no output": (attach("x", "vit", HEAD), r"last_hidden_state \[1, 17, 32\]"),
    "an output of a tensor": (attach("x", "vit.layernorm", HEAD, output="0"), "no name"),
    "features": (attach("x", "vit.layernorm", HEAD, features=31), "32, of the output"),
    "a class token": (attach("x", "vit.layernorm", tokens()), "17 tokens behind 0 others"),
    "the wrong layout": (
        attach("x", "vit.layernorm", {**tokens(), "layout": "channels_first"}),
        "a module that takes",
    ),
    "a prefix of a map": (
        attach("x", "vit.layernorm", {**tokens(prefix=1), "layout": "channels_last"}), "prefix",
    ),
    "an even kernel": (attach("x", "vit.layernorm", tokens(kernel=2)), "an odd kernel, got 2"),
    "an unknown kind": (attach("x", "vit.layernorm", {"use": "mpl"}), "did you mean 'mlp'"),
    "an unknown option": (attach("x", "vit.layernorm", {**HEAD, "hide": 1}), "out, bias"),
    "a missing option": (attach("x", "vit.layernorm", "linear"), "out: field required"),
    "a parameter": (attach("x", "vit.embeddings.cls_token", HEAD), "a parameter and no module"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(name: str) -> None:
    step, message = WRONG[name]
    model = models.vit()
    before = models.bits(model)
    with pytest.raises(SurgeryError, match=message):
        surgery.apply(model, step)
    assert models.same_bits(before, models.bits(model))
    assert type(model) is models.transformers.ViTForImageClassification


@pytest.mark.parametrize(
    ("path", "message"), [("twice", "once in a forward.*2 times"), ("idle", "once in a.*none")]
)
def test_a_site_must_run_once(path: str, message: str) -> None:
    model, inputs = plain()
    with pytest.raises(SurgeryError, match=message):
        surgery.apply(model, attach("x", path, HEAD), inputs=inputs)


def test_features_are_floating_numbers() -> None:
    class Index(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.argmax(-1)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Index()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    model = Whole()
    with pytest.raises(SurgeryError, match=r"floating numbers, batch first.*int64"):
        surgery.apply(model, attach("x", "inner", HEAD), inputs={"x": torch.rand(2, 3, 4)})


def test_a_chain_of_modules_has_no_place_beside_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(SurgeryError, match="takes every module in it for one of its steps"):
        surgery.apply(model, attach("x", "0", HEAD), inputs={"input": torch.rand(2, 4)})


class Unknowable(nn.Module):
    """Take an argument that nobody can guess."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, odd: Any) -> Any:
        return self.layer(odd["here"])


def test_without_a_forward_the_recipe_says_size_and_dtype() -> None:
    model = Unknowable()
    with pytest.raises(SurgeryError, match=r"attach\.features.*no forward"):
        surgery.apply(model, attach("x", "layer", HEAD))
    with pytest.raises(SurgeryError, match=r"attach\.dtype.*no forward"):
        surgery.apply(model, attach("x", "layer", HEAD, features=4))
    step = attach("x", "layer", HEAD, features=4, dtype="float32")
    with surgery.apply(model, step) as applied:
        assert "no forward of the model could be run" in applied.plan.steps[0].notes[0]
        model({"here": torch.rand(2, 4)})
        assert tuple(surgery_made(model)["x"].shape) == (2, 3)


def surgery_made(model: nn.Module) -> Any:
    from surgery_plugins.surgeries.attach import attached

    return attached(model)


def test_two_of_one_name_are_refused() -> None:
    steps = [attach("x", "vit.layernorm", HEAD), attach("x", "vit.layernorm", HEAD)]
    with pytest.raises(SurgeryError, match=r"attach\.called: x"):
        surgery.apply(models.vit(), steps)
