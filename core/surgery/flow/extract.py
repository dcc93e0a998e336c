"""Extract a surgery from two checkpoints: express how the weights changed, and write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

from surgery.anatomy.select import select
from surgery.anatomy.selector import EVERYWHERE, Selector
from surgery.anatomy.site import Anatomy, Site
from surgery.anatomy.walk import walk
from surgery.checkpoint.pair import Pair, same_values
from surgery.checkpoint.publish import publish
from surgery.checkpoint.urls import is_url
from surgery.checks.check import demand
from surgery.errors import PluginError, RefusedError
from surgery.flow.files import base_of
from surgery.flow.pairs import Pairs, pairs_of
from surgery.flow.structure import source_given
from surgery.flow.write import Contents, write_output
from surgery.hooks.registry import Registry, registry
from surgery.operate.expressing import Expressed, Expressing, Fit, Limits
from surgery.operate.fill import fill
from surgery.operate.journal import journal_of
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.operate.step import Step

Report: TypeAlias = Callable[[str, int, int], object]
"""Called with what is being done, how much of it is done, and how much there is; 0 if unknown."""

_EVERYWHERE = Selector(path=(EVERYWHERE,))


@dataclass(frozen=True)
class Wanted:
    """What is to be extracted.

    Attributes:
        rank: the rank of every weight's change.
        energy: instead, the share of each change's squared Frobenius norm to hold; 0.99 where
            neither is given.
        at: which weights.
        use: the surgery; the only one that can where none is named.
    """

    rank: int | None = None
    energy: float | None = None
    at: Selector = _EVERYWHERE
    use: str | None = None

    @property
    def limits(self) -> Limits:
        """How closely changes are to be expressed."""
        return Limits(self.rank, self.energy if self.energy or self.rank else 0.99)


@dataclass(frozen=True)
class Extracted:
    """What was extracted.

    Attributes:
        folder: where it was written.
        use: the surgery's name.
        fits: how closely each weight's change is expressed.
        notes: what is not expressed, and why.
    """

    folder: Path
    use: str
    fits: tuple[Fit, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Give what was extracted as JSON values."""
        return {
            "folder": str(self.folder),
            "use": self.use,
            "weights": [fit.to_json() for fit in self.fits],
            "notes": list(self.notes),
        }


def extract(
    tuned: str | Path,
    base: str | Path,
    out: str | Path,
    wanted: Wanted = Wanted(),
    *,
    force: bool = False,
    plugins: Registry | None = None,
    report: Report = lambda what, done, total: None,
) -> Extracted:
    """Express how a checkpoint differs from its base as a surgery, and write that as an output.

    One weight is worked on at a time; no more than its change is held.

    Args:
        tuned: the checkpoint; see ``surgery.flow.diff.diff``.
        base: the base, from a folder or ``SOURCE:NAME``; the output names it as its base.
        out: the folder to write.
        wanted: which weights, how closely, and by which surgery.
        force: replace what stands at ``out``.
        plugins: what is installed; found by itself if not given.
        report: called with what is being done, and after each change that is expressed.

    Raises:
        RefusedError: no selected weight changed, or the surgery cannot express a change.
        SurgeryError: a side cannot be read, or the output cannot be written.
    """
    known, target = plugins or registry(), Path(out).resolve()
    name = wanted.use or _only_one(known)
    cls = _able(name, known)
    source = source_given(_absolute(base), known)
    with publish(target, force=force) as folder:
        report("compare", 0, 0)
        patient = source.build()
        pairs = pairs_of(tuned, source, patient, known)
        found = walk(patient.model, patient.inputs, families=known.families())
        changes, notes = _changes(pairs, found, wanted.at, cls)
        express = partial(report, "express")
        express(0, len(changes))
        expressed = cls.express(changes, patient, wanted.limits, express)
        report("write", 0, 0)
        _write(folder, source, patient, changes, expressed, known)
    return Extracted(target, name, expressed.fits, (*pairs.notes, *notes, *_large(expressed.fits)))


def _large(fits: Sequence[Fit]) -> Iterator[str]:
    """Say where an adapter takes more room than the weight whose change it expresses."""
    sizes = [(fit.rank * (fit.shape[0] + prod(fit.shape[1:])), prod(fit.shape)) for fit in fits]
    count = sum(taken > whole for taken, whole in sizes)
    if count:
        yield f"{count} of {len(fits)} changes take more room than the weights: lower the rank"


def _absolute(base: str | Path) -> str:
    if isinstance(base, str) and is_url(base):
        return base
    path = Path(base).expanduser()
    return str(path.resolve()) if path.exists() else str(base)


def _able(name: str, known: Registry) -> type[Expressing]:
    cls = known.surgery(name)
    if not issubclass(cls, Expressing):
        found = "one that cannot"
        raise PluginError(f"surgery '{name}'", "one that can express changes", found, "use another")
    return cls


def _only_one(known: Registry) -> str:
    """Name the only surgery that can express changes."""
    able = [n for n in known.names("surgery") if issubclass(known.surgery(n), Expressing)]
    if len(able) != 1:
        raise PluginError(
            "extract",
            "one surgery that can express changes",
            f"{len(able)}: {', '.join(able) or 'none'}",
            "name it with --use",
        )
    return able[0]


def _changes(
    pairs: Pairs, found: Anatomy, at: Selector, cls: Any
) -> tuple[list[tuple[Site, Pair]], list[str]]:
    """Give the selected sites whose weights changed, and notes on changes that are left out.

    Raises:
        RefusedError: none changed.
    """
    first = {name: pairs.by_name[name] for name in dict.fromkeys(pairs.places.values())}
    moved = {name for name, pair in first.items() if not same_values(pair)}
    changed = {n: pair for n, pair in pairs.by_name.items() if pairs.places[n] in moved}
    sites = [site for site in select(found, at, where="extract --at") if site.parameter in changed]
    whys = {site.parameter: cls().refuse(site) for site in sites}
    fit = [
        (site, changed[str(site.parameter)])
        for site in sites
        if whys[site.parameter] is None and _reshaped(changed[str(site.parameter)]) is None
    ]
    if not fit:
        raise RefusedError(
            "extract",
            "selected weights that changed, each a matrix",
            f"{len(moved)} changed tensors, none of them selected and fit" if moved
            else "none that changed",
            "see `surgery diff` for what differs",
        )  # fmt: skip
    done = {pairs.places[str(site.parameter)] for site, _ in fit}
    return fit, list(_left_out(changed, pairs, done, whys))


def _left_out(
    changed: Mapping[str, Pair], pairs: Pairs, done: set[str], whys: Mapping[str | None, str | None]
) -> Iterator[str]:
    """Say of each changed tensor that is not expressed why it is not."""
    for name, pair in changed.items():
        if pairs.places[name] == name and name not in done:
            why = _reshaped(pair) or whys.get(name, "it was not selected, or belongs to no site")
            yield f"{name} changed and is not expressed: {why}"


def _reshaped(pair: Pair) -> str | None:
    """Say where a tensor has another shape now."""
    old, new = pair.before.shape, pair.after.shape
    return f"its shape was {list(old)} and is {list(new)}" if old != new else None


def _write(
    folder: Path,
    source: Source,
    patient: Patient,
    changes: Sequence[tuple[Site, Pair]],
    expressed: Expressed,
    known: Registry,
) -> None:
    """Do the surgery on the structure, fill its tensors alone, and write the output."""
    sites = [site for site, _ in changes]
    owner = known.owner("surgery", type(expressed.surgery))
    paths = tuple(dict.fromkeys(site.path for site in sites))
    step = Step(expressed.surgery, Selector(path=paths), where="extract", plugin=owner)
    operation = operate(patient, [step], families=known.families(), sites=[sites])
    _fill(operation, expressed.values)
    journal = journal_of(operation.plan, base_of(source, known=known))
    demand(write_output(folder, operation, journal, Contents(source)), str(folder))


def _fill(operation: Operation, values: Mapping[str, Any]) -> None:
    """Give the added tensors their values; the base stays on meta."""
    import torch

    names = {id(slot): name for name, slot in operation.slots.items()}
    for slot in operation.transaction.slots:
        slot.device = torch.device("cpu")
    fill(operation.transaction.slots, operation.seed, lambda slot: values[names[id(slot)]])
