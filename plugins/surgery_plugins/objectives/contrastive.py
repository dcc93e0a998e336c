"""The objective ``contrastive``: texts that belong together lie close, all others apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log1p
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgery.operate.objective import Batch, Objective, Sample, Step
from surgery_plugins.objectives.features import Pool, features
from surgery_plugins.objectives.tokens import TooLong, encoded, padded, text_in

if TYPE_CHECKING:
    from random import Random

    from torch import Tensor, nn

    from surgery.operate.patient import Patient


class Contrastive(Objective):
    """Find each text's partner among all partners of the batch, by cosine.

    The loss is InfoNCE (van den Oord, Li and Vinyals 2018, equation 4) with negatives of the same
    forward, as in multiple-negatives ranking (Henderson et al. 2017, section 4.3). Partners that
    are the same text are no negatives of one another. How many negatives there are depends on
    ``train.micro``: a batch that is split has fewer.
    """

    name: ClassVar[str] = "contrastive"
    better: ClassVar[Mapping[str, str]] = {"loss": "min", "recall@1": "max"}

    first: str = Field("first", description="Key of the text whose partner is looked for.")
    second: str = Field("second", description="Key of its partner.")
    negative: str | None = Field(
        None, description="Key of a text that is no partner, one more for the whole batch."
    )
    pool: Pool = Field("mean", description="Which tokens make the vector: mean, first or last.")
    temperature: float = Field(0.05, gt=0, description="Cosines are divided by it.")
    symmetric: bool = Field(False, description="Look for the first text from the second one too.")
    max_tokens: int | None = Field(None, ge=3, description="Tokens of one text, at most.")
    too_long: TooLong = Field("refuse", description="Longer texts fail, or are cut.")

    def refuse(self, patient: Patient) -> str | None:
        """Refuse a patient without tokenizer."""
        return "it has no tokenizer" if patient.tokenizer is None else None

    def encode(self, sample: Sample, patient: Patient, random: Random) -> Mapping[str, Any]:
        """Turn the texts of a pair into tokens."""
        keys = [self.first, self.second, *([self.negative] if self.negative else [])]
        texts = [text_in(sample, key) for key in keys]
        if len(set(texts[1:])) < len(texts) - 1:
            raise ValueError("expected a negative that is not the partner, got the same text")
        return {
            "texts": texts,
            "rows": [encoded((text,), patient, self.max_tokens, self.too_long) for text in texts],
        }

    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
        """Make one batch of tokens: first texts, their partners, then negatives."""
        import torch

        columns = range(len(encoded[0]["rows"]))
        texts = [[one["texts"][c] for one in encoded] for c in columns]
        offered = [text for column in texts[1:] for text in column]
        same = [_same(texts[1], offered)]
        same += [_same(texts[0], texts[0])] if self.symmetric else []
        return {
            "inputs": padded([one["rows"][c] for c in columns for one in encoded], patient),
            "pairs": len(encoded),
            "hidden": [torch.tensor(one) for one in same],
            "negatives": [_negatives(one) for one in same],
        }

    def weight(self, batch: Batch) -> float:
        """Count the pairs that have a negative."""
        return float(sum(map(bool, batch["negatives"][0])))

    def step(self, model: nn.Module, batch: Batch) -> Step:
        """Compare every first text with every partner."""
        import torch
        from torch.nn.functional import normalize

        pairs = batch["pairs"]
        vectors = normalize(features(model, batch["inputs"], self.pool).float(), dim=-1)
        scores = vectors[:pairs] @ vectors[pairs:].T / self.temperature
        ways = [scores, scores[:, :pairs].T]
        ranked = [
            _ranked(*one) for one in zip(ways, batch["hidden"], batch["negatives"], strict=False)
        ]
        loss = torch.stack([one for one, _ in ranked]).mean()
        found = ranked[0][1]
        bounds = _bounds(batch["negatives"], 2 / self.temperature)
        return Step(loss, {"recall@1": (found, self.weight(batch))}, bounds)


_FLAT = 700.0
"""Exponent beyond which a float64 overflows."""


def _same(wanted: Sequence[str], offered: Sequence[str]) -> list[list[bool]]:
    """Tell which offered texts are the wanted one, elsewhere than in its own place."""
    return [[a == b and i != j for j, b in enumerate(offered)] for i, a in enumerate(wanted)]


def _negatives(same: Sequence[Sequence[bool]]) -> list[int]:
    """Count the negatives of each text."""
    return [len(row) - 1 - sum(row) for row in same]


def _bounds(negatives: Sequence[Sequence[int]], far: float) -> tuple[float | None, float | None]:
    """Give the loss where all cosines are as good, and as bad, as can be.

    Args:
        negatives: for each way of looking, how many each text has.
        far: by how much two scores can differ, at most.
    """
    counted = [[n for n in counts if n] for counts in negatives]
    if far > _FLAT or not all(counted):
        return 0.0, None

    def mean(sign: int) -> float:
        losses = [sum(log1p(n * exp(sign * far)) for n in one) / len(one) for one in counted]
        return sum(losses) / len(losses)

    return mean(-1), mean(1)


def _ranked(scores: Tensor, hidden: Tensor, negatives: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Give the mean loss of texts with a negative, and how many rank their partner first.

    Args:
        scores: texts x offered; the partner of text i is offered i.
        hidden: texts x offered, True where the offered one is the partner once more.
        negatives: how many each text has.
    """
    import torch
    from torch.nn.functional import cross_entropy

    rows = torch.tensor([i for i, n in enumerate(negatives) if n], device=scores.device).long()
    scores = scores.masked_fill(hidden, float("-inf"))[rows]
    if not len(rows):
        return scores.sum(), rows.sum()
    return cross_entropy(scores, rows), (scores.detach().argmax(1) == rows).sum()
