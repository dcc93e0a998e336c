"""Decide how a checkpoint is read: which state dict, which prefix, which name for each tensor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from surgery.checkpoint.legacy.adapters import Adapters
from surgery.checkpoint.legacy.declared import Declared, Shape
from surgery.checkpoint.legacy.find import StateDict, only, values_of
from surgery.checkpoint.legacy.names import core
from surgery.checkpoint.legacy.pairs import Pair, refuse_leftovers
from surgery.checkpoint.legacy.reading import PLAIN, Reading, Wishes, freely_read, readings
from surgery.checkpoint.legacy.solve import Prefix, demand_one
from surgery.checkpoint.strict import show
from surgery.checkpoint.writer import NewEntry
from surgery.errors import IntegrityError, PatientError, RecipeError


@dataclass(frozen=True)
class Resolved:
    """How a checkpoint was read.

    Attributes:
        state: the state dict that was taken.
        entries: what can be written, by the names that it gets.
        sources: for each of these names, the names in the file.
        prefix: what was taken off the names, and put before them.
        words: wrappers' names that were taken out.
        form: what was done with weights stored in parts.
        pairs: these weights, by clean names.
        outside: names in the file that the prefix does not lead into the structure.
        dropped: names in the file that are not written, and why.
        adapters: the tensors of adapters.
        paths: for each module that they adapt, its path in the adopted model.
    """

    state: StateDict
    entries: dict[str, NewEntry]
    sources: dict[str, tuple[str, ...]]
    prefix: Prefix
    words: tuple[str, ...]
    form: str
    pairs: list[Pair]
    outside: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    adapters: Adapters = field(default_factory=Adapters)
    paths: dict[str, str] = field(default_factory=dict)


def resolve_freely(found: list[StateDict], wishes: Wishes, where: str) -> Resolved:
    """Decide where nothing says what the names should be.

    Raises:
        PatientError: there are several state dicts, or names that cannot be cleaned.
        RecipeError: a wish is for what is not there.
    """
    reading = freely_read(only(found, where), wishes, where)
    prefix = reading.prefixes[0] if reading.prefixes else Prefix("", "")
    return _resolved(reading, prefix, None, wishes, where)


def resolve_towards(
    found: list[StateDict],
    wanted: Declared,
    wishes: Wishes,
    where: str,
    mark: Callable[[Shape], Hashable] = lambda shape: shape,
) -> Resolved:
    """Decide so that the most names and shapes meet those of a structure.

    Where shapes do not meet, names and ranks alone decide, so that it can be told what differs.

    Args:
        found: the state dicts of the file.
        wanted: the structure.
        wishes: what the user says.
        where: how errors name the file.
        mark: what of a shape must be equal for two tensors to meet.

    Raises:
        PatientError: nothing meets, or two ways are equally good.
        RecipeError: a wish is for what is not there.
    """
    best = _best(found, wanted, wishes, where, mark)
    if not any(reading.prefixes for reading in best):
        best = _best(found, wanted, wishes, where, len)
    most = max(reading.matched for reading in best)
    winners = [reading for reading in best if reading.matched == most]
    if len(winners) > 1 and most:
        only([reading.state for reading in winners], where)
    prefix = demand_one(winners[0].prefixes, where)
    return _resolved(winners[0], prefix, wanted, wishes, where)


def _best(
    found: list[StateDict],
    wanted: Declared,
    wishes: Wishes,
    where: str,
    mark: Callable[[Shape], Hashable],
) -> list[Reading]:
    """Give the best way to read each state dict."""
    return [max(readings(one, wanted, wishes, where, mark), key=_merit) for one in found]


def _merit(reading: Reading) -> tuple[int, bool]:
    return reading.matched, reading.form == PLAIN


def _resolved(
    reading: Reading, prefix: Prefix, wanted: Declared | None, wishes: Wishes, where: str
) -> Resolved:
    """Give every tensor its name."""
    named, sources, outside, unsaved = _named(reading, prefix, wanted, wishes.spectral_axis)
    dropped = dict.fromkeys(reading.counters, "a wrapper's counter")
    dropped |= dict.fromkeys(reading.state.others, "no tensor")
    dropped |= dict.fromkeys(reading.state.left_out, "left out by --drop")
    dropped |= dict.fromkeys(unsaved, "a buffer that is made anew and no longer saved")
    if wanted is None:
        refuse_leftovers(named, where)
        _demand_all(outside, prefix)
    else:
        dropped |= _untied(named, sources, wanted, where)
    paths = _module_paths(reading, {raw: n for n, raws in sources.items() for raw in raws})
    pairs = reading.pairs if reading.form == PLAIN else []
    return Resolved(
        reading.state, named, sources, _whole_prefix(prefix, reading), reading.cleaning.words,
        reading.form, pairs, outside, dropped, reading.adapters, paths,
    )  # fmt: skip


def _named(
    reading: Reading, prefix: Prefix, wanted: Declared | None, axis: int | None
) -> tuple[dict[str, NewEntry], dict[str, tuple[str, ...]], list[str], list[str]]:
    """Part tensors: those with a name, what these come from, those outside, old buffers."""
    words = reading.cleaning.words
    own = {core(name, words): name for name in (wanted.shapes if wanted else ())}
    old = {core(name, words) for name in (wanted.unsaved if wanted else ())} - own.keys()
    named: dict[str, NewEntry] = {}
    sources: dict[str, tuple[str, ...]] = {}
    outside: list[str] = []
    unsaved: list[str] = []
    for name, entry in reading.entries(axis).items():
        to, raw = prefix.apply(name), reading.sources[name]
        if to is None or to in old:
            (outside if to is None else unsaved).extend(raw)
        else:
            final = own.get(to, to)
            named[final], sources[final] = entry._replace(name=final), raw
    return named, sources, outside, unsaved


def _whole_prefix(prefix: Prefix, reading: Reading) -> Prefix:
    """Give the prefix with what was cleaned off before."""
    old = ".".join(part for part in (reading.cleaning.prefix.strip("."), prefix.old) if part)
    return Prefix(old, prefix.new, prefix.matched)


def _demand_all(outside: Sequence[str], prefix: Prefix) -> None:
    """Demand that a stated prefix holds for every name."""
    if outside:
        wanted = "the beginning of every name"
        found = f"{len(outside)} names without it, such as {show(outside[0])}"
        instead = "leave them out with --drop"
        raise RecipeError(f"--prefix {prefix.old}={prefix.new}", wanted, found, instead)


def _untied(
    named: dict[str, NewEntry],
    sources: dict[str, tuple[str, ...]],
    wanted: Declared,
    where: str,
) -> dict[str, str]:
    """Keep one of the tensors that the structure ties, under its first name.

    Raises:
        IntegrityError: the file holds different values for them.
    """
    dropped: dict[str, str] = {}
    for name in [one for one in named if wanted.first.get(one, one) != one]:
        first, entry, raw = wanted.first[name], named.pop(name), sources.pop(name)
        if first not in named:
            named[first], sources[first] = entry._replace(name=first), raw
        elif not _same(named[first], entry):
            raise IntegrityError(
                f"{where}: {show(raw[0])}", f"the values of {show(sources[first][0])}, its tie",
                "other values", "declare a structure that does not tie them",
            )  # fmt: skip
        else:
            dropped |= dict.fromkeys(raw, f"tied to {first}")
    return dropped


def _same(one: NewEntry, other: NewEntry) -> bool:
    """Tell whether two tensors have equal values; those that share memory are not read."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    a, b = values_of(one), values_of(other)
    return (a.data_ptr(), a.stride()) == (b.data_ptr(), b.stride()) or bool(a.equal(b))


def _module_paths(reading: Reading, finals: dict[str, str]) -> dict[str, str]:
    """Find the path in the adopted model of each module that an adapter adapts."""
    words, found = set(reading.cleaning.words), {}
    cores = {core(raw, words): raw for raw in finals}
    for piece in (one for pieces in reading.adapters.pieces.values() for one in pieces):
        path = ".".join(part for part in piece.path.split(".") if part not in words)
        beside = next((name for name in cores if name.startswith(f"{path}.")), None)
        if beside is not None:
            found[piece.path] = finals[cores[beside]].removesuffix(beside[len(path) :])
    return found


def demand_paths(resolved: Resolved, where: str) -> None:
    """Demand a base for each adapter.

    Raises:
        PatientError: the file holds adapters to modules that it does not hold.
    """
    for piece in (one for pieces in resolved.adapters.pieces.values() for one in pieces):
        if piece.path not in resolved.paths:
            raise PatientError(
                f"{where}: {show(piece.name)}", "a base tensor of the module that it adapts",
                "none", "an adapter without its base is for PEFT to load",
            )  # fmt: skip
