"""Laws of ``contrastive``: the loss by its definition, its bounds, and who is no negative."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.errors import RefusedError
from surgery.operate.patient import Patient
from surgery_plugins.objectives.contrastive import Contrastive
from surgery_plugins.objectives.features import pooled
from tests.objectives import kit

PAIRS = [
    {"first": "a cat on a mat", "second": "a mat under a cat"},
    {"first": "segment the dog", "second": "the dog in the image"},
    {"first": "where is it?", "second": "it is on a mat"},
]


def vectors(patient: Patient, texts: list[str]) -> Tensor:
    made = patient.tokenizer(texts, padding=True, return_tensors="pt")
    states = patient.model(**made).last_hidden_state
    keep = made["attention_mask"].bool()
    means = [row[one].mean(0) for row, one in zip(states, keep, strict=True)]
    return nn.functional.normalize(torch.stack(means), dim=-1)


def reference(scores: list[list[float]], left_out: set[tuple[int, int]] = frozenset()) -> float:
    """Give InfoNCE as its formula says, one text at a time."""
    losses = []
    for i, row in enumerate(scores):
        kept = [s for j, s in enumerate(row) if (i, j) not in left_out]
        losses.append(log(sum(exp(s - row[i]) for s in kept)))
    return sum(losses) / len(losses)


def scores_of(patient: Patient, samples: list[dict[str, str]], temperature: float) -> Any:
    firsts = vectors(patient, [one["first"] for one in samples])
    offered = [one["second"] for one in samples]
    offered += [one["negative"] for one in samples if "negative" in one]
    return (firsts @ vectors(patient, offered).T / temperature).tolist()


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_loss_is_what_its_formula_says(temperature: float) -> None:
    patient, objective = kit.encoder(), Contrastive(temperature=temperature)
    found = kit.step(objective, PAIRS, patient)
    scores = scores_of(patient, PAIRS, temperature)
    assert found.loss.item() == pytest.approx(reference(scores), rel=1e-4)
    right = sum(max(row) == row[i] for i, row in enumerate(scores))
    count, pairs = found.metrics["recall@1"]
    assert (int(count), pairs) == (right, 3.0)


def test_both_ways_may_count() -> None:
    patient, objective = kit.encoder(), Contrastive(symmetric=True)
    scores = scores_of(patient, PAIRS, 0.05)
    turned = [list(column) for column in zip(*scores, strict=True)]
    wanted = (reference(scores) + reference(turned)) / 2
    assert kit.step(objective, PAIRS, patient).loss.item() == pytest.approx(wanted, rel=1e-4)


def test_negatives_of_samples_are_offered_to_the_whole_batch() -> None:
    patient, objective = kit.encoder(), Contrastive(negative="negative")
    samples = [{**one, "negative": f"answer {n} then"} for n, one in enumerate(PAIRS)]
    batch = kit.batch(objective, samples, patient)
    assert batch["negatives"] == [[5, 5, 5]]
    found = objective.step(patient.model, batch).loss.item()
    assert found == pytest.approx(reference(scores_of(patient, samples, 0.05)), rel=1e-4)


def test_the_same_partner_twice_is_no_negative() -> None:
    patient, objective = kit.encoder(), Contrastive()
    samples = [PAIRS[0], {**PAIRS[1], "second": PAIRS[0]["second"]}, PAIRS[2]]
    found = kit.step(objective, samples, patient).loss.item()
    wanted = reference(scores_of(patient, samples, 0.05), {(0, 1), (1, 0)})
    assert found == pytest.approx(wanted, rel=1e-4)


def test_pairs_without_a_negative_count_nothing() -> None:
    patient, objective = kit.encoder(), Contrastive()
    alone = kit.batch(objective, PAIRS[:1], patient)
    assert objective.weight(alone) == 0
    assert objective.step(patient.model, alone).loss.item() == 0
    same = [{**one, "second": "a mat"} for one in PAIRS]
    assert objective.weight(kit.batch(objective, same, patient)) == 0
    assert objective.weight(kit.batch(objective, [*same, PAIRS[2]], patient)) == 4


class Fixed(nn.Module):
    """Give the states that it is told, whatever the texts."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = nn.Parameter(states)

    def forward(self, **inputs: Any) -> Any:
        count = inputs["input_ids"].shape[1]
        return type("Out", (), {"last_hidden_state": self.states[:, None].expand(-1, count, -1)})


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_bounds_are_where_all_is_as_good_and_as_bad_as_can_be(
    symmetric: bool, temperature: float
) -> None:
    patient = kit.encoder()
    objective = Contrastive(symmetric=symmetric, temperature=temperature)
    batch = kit.batch(objective, PAIRS[:2], patient)
    good = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    best = objective.step(Fixed(good), batch)
    worst = objective.step(Fixed(good * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])), batch)
    low, high = best.bounds
    assert best.loss.item() == pytest.approx(low, abs=1e-6)
    assert worst.loss.item() == pytest.approx(high, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.floats(0.02, 5), st.integers(0, 999))
def test_every_loss_lies_within_its_bounds(pairs: int, temperature: float, seed: int) -> None:
    objective = Contrastive(temperature=temperature)
    states = torch.randn(2 * pairs, 3, generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(2 * pairs, 2)
    batch = {
        "inputs": {"input_ids": ones, "attention_mask": ones},
        "pairs": pairs,
        "hidden": [torch.zeros(pairs, pairs).bool()],
        "negatives": [[pairs - 1] * pairs],
    }
    found = objective.step(Fixed(states), batch)
    low, high = found.bounds
    assert low is not None
    assert high is not None
    assert low - 1e-5 <= found.loss.item() <= high * (1 + 1e-5)


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_counts_on_whichever_side_it_is(pool: Any, side: str) -> None:
    states = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    if side == "left":
        mask = mask.flip(1)
    own = [states[0][mask[0].bool()], states[1]]
    pick = {"mean": lambda x: x.mean(0), "first": lambda x: x[0], "last": lambda x: x[-1]}[pool]
    wanted = torch.stack([pick(one) for one in own])
    assert torch.allclose(pooled(states, mask, pool), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"first": "x"}, "the key 'second'"),
        ({"first": "", "second": "x"}, "a blank one"),
        ({"first": "x", "second": "y", "negative": "y"}, "a negative that is not the partner"),
        ({"first": "a cat " * 20, "second": "y", "negative": "z"}, "at most 24 tokens"),
    ],
)
def test_a_bad_sample_is_an_error(sample: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kit.encoded(Contrastive(negative="negative"), sample, kit.encoder())


def test_what_gives_no_states_is_refused() -> None:
    patient = kit.encoder()
    assert Contrastive().refuse(patient) is None
    assert "no tokenizer" in str(Contrastive().refuse(Patient(patient.model, patient.config)))

    class Silent(nn.Module):
        def forward(self, **inputs: Any) -> None:
            return None

    batch = kit.batch(Contrastive(), PAIRS, patient)
    with pytest.raises(RefusedError, match="last_hidden_state"):
        Contrastive().step(Silent(), batch)
