"""The ledger: every saved tensor lands, and every journalled tensor is found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from surgery.checks.check import Check, failed, passed

Spec = tuple[tuple[int, ...], str]
"""Shape, and dtype by torch's name."""


def ledger(wanted: Mapping[str, Spec], found: Mapping[str, Spec]) -> Check:
    """Compare the tensors that a journal names with those that a checkpoint holds.

    Args:
        wanted: what must be stored, by name.
        found: what is stored, by name.
    """
    missing = sorted(set(wanted) - set(found))
    unknown = sorted(set(found) - set(wanted))
    other = sorted(name for name in set(wanted) & set(found) if wanted[name] != found[name])
    if not (missing or unknown or other):
        return passed("ledger", f"{len(wanted)} of {len(wanted)} tensors found")
    parts = [
        _list("missing", missing),
        _list("not in the journal", unknown),
        _list("of another shape or dtype", (f"{n} {found[n]} for {wanted[n]}" for n in other)),
    ]
    return failed("ledger", "; ".join(filter(None, parts)))


def _list(what: str, names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return f"{len(shown)} {what}: {', '.join(shown[:5])}{more}" if shown else ""
