"""Laws of the loss: bounds, padding, saturation, and masks that teach nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import TrainingError
from surgery.training.guards import Guards
from surgery_plugins.objectives.segmentation.loss import bounds, judged, losses, measured

ALL = torch.ones(2, 8, 8, dtype=torch.bool)


def target() -> torch.Tensor:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 2:6] = True
    return mask


def random(seed: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 8, 8, generator=generator) * scale


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 50))
def test_the_loss_stays_within_its_bounds(seed: int, scale: float) -> None:
    logits = random(seed, scale)
    step = judged(logits.requires_grad_(), target(), ALL, (1.0, 1.0), False)
    low, high = step.bounds
    assert low == 0.0
    assert float(step.loss.detach()) > 0
    assert high is None
    dice = losses(logits[:, 0], target().float(), ALL.float(), (0.0, 1.0))
    assert bool(((dice >= 0) & (dice <= 1)).all())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_what_lies_in_padding_counts_for_nothing(seed: int) -> None:
    valid = ALL.clone()
    valid[:, :, 6:] = False
    one, other = random(seed, 3.0), random(seed, 3.0)
    other[..., 6:] = -other[..., 6:] + 1
    weights = (1.0, 1.0)
    assert torch.equal(
        losses(one[:, 0], target().float(), valid.float(), weights),
        losses(other[:, 0], target().float(), valid.float(), weights),
    )
    assert measured(one[:, 0], target(), valid) == measured(other[:, 0], target(), valid)


def test_a_perfect_mask_has_nearly_no_loss_and_full_marks() -> None:
    logits = (target().float() * 40 - 20)[:, None].requires_grad_()
    step = judged(logits, target(), ALL, (1.0, 1.0), False)
    assert float(step.loss.detach()) < 1e-6
    found = {name: float(value) / float(count) for name, (value, count) in step.metrics.items()}
    assert found == {"dice": 1.0, "iou": 1.0}


def test_two_empty_masks_agree() -> None:
    nothing = torch.zeros_like(target())
    found = measured(torch.full((2, 8, 8), -5.0), nothing, ALL)
    assert [float(value) for value, _ in found.values()] == [2.0, 2.0]


def test_sigmoids_that_cannot_move_put_the_loss_at_its_bound_and_the_guard_sees_it() -> None:
    stuck = torch.where(torch.rand(2, 1, 8, 8) > 0.5, 200.0, -200.0).requires_grad_()
    step = judged(stuck, target(), ALL, (0.0, 1.0), False)
    loss = float(step.loss.detach())
    assert step.bounds == (0.0, loss)
    model = torch.nn.Linear(1, 1)
    guards = Guards(model, torch.optim.SGD(model.parameters(), 1.0), frozenset(("weight", "bias")))
    guards.start()
    with pytest.raises(TrainingError, match="saturated"):
        guards.after_backward(0, step, loss)
    assert bounds(stuck.detach() / 100, step.loss) == (0.0, None)


def test_several_masks_need_a_choice_and_the_least_loss_is_one() -> None:
    good = (target().float() * 8 - 4)[:, None]
    both = torch.cat([random(0, 1.0), good], 1).requires_grad_()
    with pytest.raises(TrainingError, match="masks: least"):
        judged(both, target(), ALL, (1.0, 1.0), False)
    found = judged(both, target(), ALL, (1.0, 1.0), True)
    alone = judged(good.requires_grad_(), target(), ALL, (1.0, 1.0), False)
    assert torch.equal(found.loss, alone.loss)
    found.loss.backward()
    assert both.grad is not None
    assert not bool(both.grad[:, 0].any())


def test_logits_are_compared_at_the_images_own_resolution() -> None:
    small = random(1, 1.0)[..., :4, :4].requires_grad_()
    step = judged(small, target(), ALL, (1.0, 1.0), False)
    wide = torch.nn.functional.interpolate(small, (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(step.loss, judged(wide, target(), ALL, (1.0, 1.0), False).loss)


def test_a_constant_over_all_masks_is_an_error_in_training_alone() -> None:
    written = torch.full((2, 1, 8, 8), -1024.0, requires_grad=True)
    with pytest.raises(TrainingError, match="-1024 everywhere"):
        judged(written, target(), ALL, (1.0, 1.0), False)
    with torch.no_grad():
        assert float(judged(written, target(), ALL, (1.0, 1.0), False).loss) > 1
