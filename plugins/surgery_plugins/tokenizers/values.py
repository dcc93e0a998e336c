"""Rows of tokens: are they like the others, and can they be told apart?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery_plugins.tokenizers.findings import Finding, noted
from surgery_plugins.tokenizers.tables import Table

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.patient import Patient

FAR = 6.0
"""Standard deviations from which on a row's norm is remarkable."""


_CHUNK = 8192
"""Rows whose norms are taken at once."""


def value_findings(
    patient: Patient, tables: Sequence[Table], tokens: Sequence[str]
) -> Iterator[Finding]:
    """Note rows whose norm is unlike the others', or which equal another row.

    Args:
        patient: with its weights in memory.
        tables: the vocabulary's tables.
        tokens: whose rows to look at, where they have one.
    """
    ids = patient.tokenizer.get_vocab()
    for table in tables:
        if table.kind != "bias":
            weight = shown_weight(patient.model, table.name)
            rows = {
                token: ids[token] for token in tokens if ids.get(token, table.rows) < table.rows
            }
            yield from _norms(table.name, weight, rows)
            yield from _equal(table.name, weight, rows)


def shown_weight(model: Any, name: str) -> Tensor:
    """Give a weight as the model's forward sees it, trained rows in their places."""
    path, _, leaf = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(path), leaf)
    return weight.detach()


def _norms(name: str, weight: Tensor, rows: dict[str, int]) -> Iterator[Finding]:
    norms = _lengths(weight)
    middle, spread = norms.median(), norms.std()
    for token, row in rows.items():
        away = float((norms[row] - middle) / spread) if spread else 0.0
        if abs(away) > FAR:
            text = f"{name}: the row of '{token}' has norm {float(norms[row]):.3g}"
            yield noted(f"{text}, others {float(middle):.3g}", token)


def _lengths(weight: Tensor) -> Tensor:
    """Give the norms of rows in float32, some at a time: ``(rows, width)`` to ``(rows,)``."""
    from torch import cat, split

    return cat([part.float().norm(dim=1) for part in split(weight, _CHUNK)])


def _equal(name: str, weight: Tensor, rows: dict[str, int]) -> Iterator[Finding]:
    first: dict[bytes, str] = {}
    for token, row in rows.items():
        other = first.setdefault(weight[row].float().cpu().numpy().tobytes(), token)
        if other != token:
            yield noted(f"{name}: '{other}' and '{token}' have the same row", token)
