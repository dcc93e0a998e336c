"""What a diagnosis must tell, and that it leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.anatomy.selector import Selector
from surgery.anatomy.stated import Stated
from surgery.checks.gradients import loss_of, state, states
from surgery.checks.watch import WHOLE, raised, told, watched
from surgery.errors import RecipeError, RefusedError
from surgery.flow.check import Inputs
from surgery.flow.diagnose import Diagnosis, diagnose
from surgery.flow.trials import Trouble
from tests.diagnose.cases import (
    FREEZE,
    LORA,
    Extra,
    Liar,
    NaiveCast,
    Poison,
    bits,
    image,
    trial,
    tried,
    trunk,
)

FC = Selector(path=("blocks.2.attn.proj",))


def trouble_of(found: Diagnosis) -> Trouble:
    assert found.culprit is not None
    assert found.culprit.trouble is not None
    return found.culprit.trouble


def test_the_first_module_that_gives_nan_is_named() -> None:
    found = tried([FREEZE, (Poison(), FC)])
    assert found.culprit is not None
    assert found.culprit.surgery == "steps[1] poison"
    assert (trouble_of(found).breaks, trouble_of(found).where) == ("finiteness", FC.path[0])
    assert "steps[0] freeze" in found.innocent


def test_the_first_module_that_answers_otherwise_is_named() -> None:
    found = tried([LORA, (Liar(), FC)])
    assert (trouble_of(found).breaks, trouble_of(found).where) == ("identity", FC.path[0])
    assert found.innocent == ("steps[0] lora",)


@pytest.mark.parametrize(
    ("way", "what"), [("idle", "no gradient"), ("cut", "is zero"), ("broken", "NaN")]
)
def test_a_tensor_that_learns_nothing_is_named(way: str, what: str) -> None:
    found = tried([LORA, (Extra(way=way), FC)])
    assert found.culprit is not None
    assert found.culprit.surgery == "steps[1] extra"
    assert trouble_of(found).breaks == "gradients"
    assert trouble_of(found).where == "blocks.2.attn.proj.extra"
    assert what in trouble_of(found).what


def test_zero_gradients_beside_a_zero_tensor_are_no_fault() -> None:
    found = tried([LORA])
    (check,) = [c for c in found.trials[1].checks if c.name == "gradients"]
    assert check.status == "passed"
    assert "4 with a zero gradient as expected" in check.detail


def test_without_a_zero_tensor_no_gradient_is_zero() -> None:
    found = tried([{**LORA, "with": {"rank": 2, "alpha": 2, "init": "gaussian"}}])
    (check,) = [c for c in found.trials[1].checks if c.name == "gradients"]
    assert "zero" in check.detail
    assert found.ok


def test_what_cannot_be_checked_is_listed_as_skipped() -> None:
    found = tried([FREEZE, LORA], (140, 140))
    statuses = {check.name: check.status for check in found.trials[0].checks}
    assert statuses["shapes"] == "failed"
    assert statuses["gradients"] == statuses["finiteness"] == "skipped"
    found = tried([FREEZE])
    statuses = {check.name: check.status for check in found.trials[1].checks}
    assert statuses["gradients"] == "skipped"


def test_a_surgery_that_needs_an_earlier_one_is_skipped_alone_and_tried_after_it() -> None:
    found = tried([LORA, {"use": "merge"}])
    alone = trial(found, "steps[1] merge alone")
    assert (alone.status, found.ok) == ("skipped", True)
    assert "cannot be done alone" in alone.skipped
    assert trial(found, "first 2: lora, merge").status == "passed"


def test_a_surgery_that_is_refused_is_named() -> None:
    found = tried([{**LORA, "expect": 3}])
    assert trouble_of(found).breaks == "surgery"
    assert "expected 3" in trouble_of(found).what
    assert found.innocent == ()


@pytest.mark.parametrize("size", [(126, 126), (140, 140)])
def test_everything_is_taken_back(size: tuple[int, int]) -> None:
    model = trunk()
    model.blocks[0].train()
    before, objects = bits(model), {id(p) for p in model.parameters()}
    steps: Any = [LORA, NaiveCast(), (Poison(), FC), (Extra(), FC), {"use": "merge"}]
    noise = torch.random.get_rng_state()
    diagnose(model, steps, inputs=image(*size))
    assert torch.equal(noise, torch.random.get_rng_state())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {id(p) for p in model.parameters()} == objects
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.blocks[0].training
    assert not model.blocks[1].training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert type(model.blocks[0].attn.qkv) is nn.Linear


def test_inputs_may_be_stated_by_shape_and_unknown_ones_are_refused() -> None:
    asked = Inputs({"x": Stated((2, 3, 126, 126))})
    assert diagnose(trunk(), LORA, inputs=asked).ok
    bad = diagnose(trunk(), LORA, inputs=Inputs({"x": Stated((1, 3, 126, 126))}, (140, 140)))
    assert trouble_of(bad).where == "blocks.1.attn"
    with pytest.raises(RecipeError, match="--input NAME=SHAPE"):
        diagnose(trunk(), LORA)
    with pytest.raises(RecipeError, match="an input that the forward of Trunk takes"):
        diagnose(trunk(), LORA, inputs=Inputs({"y": Stated((1,))}))


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(RefusedError, match="on meta"):
        diagnose(trunk().to("meta"), LORA, inputs=image(126, 126))


def test_a_model_that_nobody_knows_has_its_contracts_skipped() -> None:
    found = diagnose(nn.Sequential(nn.Linear(2, 2)), FREEZE, inputs={"input": torch.ones(1, 2)})
    (check,) = [c for c in found.trials[0].checks if c.name == "contract"]
    assert (found.ok, check.status) == (True, "skipped")


class Backward(nn.Module):
    """A model whose backward is torn."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            first = self.inner(x)
        return first + self.inner(x).detach()


def test_an_output_cut_off_from_what_learns_has_no_gradients() -> None:
    lora = {"use": "lora", "at": {"path": "inner"}, "with": {"rank": 1}}
    found = diagnose(Backward(), lora, inputs={"x": torch.ones(1, 2)})
    assert trouble_of(found).breaks == "gradients"
    assert "no gradient" in trouble_of(found).what


def test_a_watch_names_the_innermost_module_and_the_source_line() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 2))
    with watched(model) as watch, pytest.raises(RuntimeError) as error:
        model(torch.ones(1, 2))
    found = raised(error.value, watch)
    assert found.where == "1"
    assert "(1, 3)" in found.what
    assert [mark.path for mark in watch.marks] == ["0"]
    with watched(model) as watch, pytest.raises(TypeError) as other:
        model()
    assert raised(other.value, watch).where == WHOLE
    with pytest.raises(AssertionError) as bare:
        _bare()
    assert "no words" in told(bare.value)


def _bare() -> None:
    no_words = 1
    try:
        assert no_words == 2  # no words
    except AssertionError:
        raise AssertionError from None  # no words


@pytest.mark.parametrize(
    ("gradient", "found"),
    [
        (None, "none"),
        ([0.0, 0.0], "zero"),
        ([0.0, 1.0], "some"),
        ([0.0, float("inf")], "not finite"),
    ],
)
def test_the_state_of_a_gradient(gradient: Any, found: str) -> None:
    assert state(None if gradient is None else torch.tensor(gradient)) == found


def test_the_loss_moves_what_stands_before_a_normalisation() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    found = states(model, {"input": torch.randn(3, 4)})
    assert set(found.values()) == {"some"}
    assert all(p.grad is None for p in model.parameters())
    assert loss_of([torch.ones(2)]) is None
    turned = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    loss = loss_of({"a": turned})
    assert loss is not None
    assert not loss.is_complex()
