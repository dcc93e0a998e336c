"""The soft choice is exactly one token forwards, and a softmax backwards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery_plugins.objectives.pseudo_gumbel.soften import Choice, chosen, mixed, replaced


def logits(tokens: int = 7, words: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(tokens, words, generator=generator)).requires_grad_()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 5.0), st.integers(2, 40))
def test_the_choice_is_exactly_one_hot_and_its_embedding_is_the_tokens_own(
    seed: int, tau: float, k: int
) -> None:
    torch.manual_seed(seed)
    table = nn.Embedding(40, 6)
    choice = chosen(logits(seed=seed), k, tau, True)
    assert set(choice.hard.unique().tolist()) <= {0.0, 1.0}
    assert bool((choice.hard.sum(-1) == 1).all())
    assert torch.equal(mixed(table, choice), table(choice.tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_embedding_is_the_tokens_own_in_every_dtype(dtype: torch.dtype) -> None:
    table = nn.Embedding(40, 6, dtype=dtype)
    choice = chosen(logits().to(dtype), 16, 0.7, True)
    found = mixed(table, choice)
    assert found.dtype == dtype
    assert torch.equal(found, table(choice.tokens))


def test_the_other_order_of_the_same_sum_is_not_one_hot_in_bfloat16() -> None:
    torch.manual_seed(0)
    soft = torch.randn(200, 16).softmax(-1).to(torch.bfloat16)
    hard = nn.functional.one_hot(soft.argmax(-1), 16).to(soft.dtype)
    assert not torch.equal((hard + soft) - soft, hard)
    assert torch.equal((hard - soft) + soft, hard)


def test_the_gradient_is_that_of_the_soft_choice_and_none_outside_the_greatest() -> None:
    table, values = nn.Embedding(40, 6), logits()
    towards = torch.randn(7, 6)
    torch.manual_seed(1)
    choice = chosen(values, 16, 0.7, True)
    (mixed(table, choice) * towards).sum().backward()
    given = values.grad
    assert given is not None
    again = logits()
    torch.manual_seed(1)
    soft = chosen(again, 16, 0.7, True)
    ((soft.soft[..., None] * table(soft.index)).sum(-2) * towards).sum().backward()
    torch.testing.assert_close(given, again.grad)
    inside = torch.zeros_like(given, dtype=torch.bool).scatter(1, choice.index, True)
    assert not bool(given[~inside].any())
    assert bool(given[inside].any())
    torch.testing.assert_close(given.sum(-1), torch.zeros(7), atol=1e-5, rtol=0)


def test_noise_is_gumbels_and_in_float32() -> None:
    torch.manual_seed(0)
    flat = torch.zeros(20_000, 4, dtype=torch.bfloat16)
    choice = chosen(flat, 4, 1.0, True)
    assert choice.soft.dtype == torch.float32
    counts = torch.bincount(choice.tokens, minlength=4) / len(flat)
    torch.testing.assert_close(counts, torch.full((4,), 0.25), atol=0.02, rtol=0)
    gap = choice.soft.log().amax(-1) - choice.soft.log().amin(-1)
    assert float(gap.max()) > 8  # coarser noise never gets so far


def test_without_noise_the_greatest_is_chosen() -> None:
    values = logits()
    assert torch.equal(chosen(values, 8, 0.7, False).tokens, values.argmax(-1))


def test_what_may_not_be_chosen_never_is() -> None:
    values = logits().detach()
    values[:, 10:] = -torch.inf
    torch.manual_seed(0)
    assert int(chosen(values, 16, 5.0, True).tokens.max()) < 10


def test_a_choice_that_is_not_one_hot_stops_the_training() -> None:
    good = chosen(logits(), 16, 0.7, True)
    bad = Choice(good.hard * 0.99, good.soft, good.index, good.logits)
    with pytest.raises(TrainingError, match=r"exactly one 1 at each place.*off by up to 0\.01"):
        mixed(nn.Embedding(40, 6), bad)


def test_a_table_that_answers_otherwise_each_time_stops_the_training() -> None:
    table, calls = nn.Embedding(40, 6), [0]

    def moving(index: Tensor) -> Tensor:
        calls[0] += 1
        return table(index) + calls[0]

    with pytest.raises(TrainingError, match="those of the chosen tokens, bit for bit"):
        mixed(moving, chosen(logits(), 16, 0.7, True))


def test_not_finite_logits_stop_the_training() -> None:
    values = logits().detach()
    values[0] = torch.nan
    with pytest.raises(TrainingError, match="logits that are not finite"):
        mixed(nn.Embedding(40, 6), chosen(values, 16, 0.7, True))


def test_a_share_of_tokens_is_replaced_by_allowed_ones() -> None:
    torch.manual_seed(0)
    caption, allowed = torch.full((4000,), 7), torch.tensor([1, 2, 3])
    found = replaced(caption, 0.25, allowed)
    assert set(found.unique().tolist()) == {1, 2, 3, 7}
    assert float((found != 7).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(replaced(caption, 0.0, allowed), caption)
