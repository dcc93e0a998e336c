"""The ways in which a state dict can be read: how names are cleaned, how parts are spelled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from surgery.checkpoint.legacy.adapters import Adapters, adapters_of
from surgery.checkpoint.legacy.declared import Declared, Shape
from surgery.checkpoint.legacy.find import StateDict
from surgery.checkpoint.legacy.names import (
    Cleaning,
    clean,
    clean_towards,
    core,
    refuse_flat,
    renamed,
    split_counters,
)
from surgery.checkpoint.legacy.pairs import Pair, materialised, pairs_of
from surgery.checkpoint.legacy.solve import Prefix, solve
from surgery.checkpoint.writer import NewEntry

KEPT, RESPELLED, PLAIN = "kept", "respelled", "materialised"
"""What is done with weights stored in parts: nothing, torch's other spelling, plain weights."""


@dataclass(frozen=True)
class Wishes:
    """What the user says about a checkpoint.

    Attributes:
        key: the state dict to take.
        prefix: what names begin with, and what they begin with in the structure.
        renames: runs of parts of names, old and new.
        components: parts of the structure that must be complete.
        adapters: ``split`` or ``drop``; None refuses them.
        lora_alpha: alpha of adapters to split off.
        lora_scaling: ``plain`` or ``rslora``.
        spectral_axis: axis of spectral norms that do not show theirs.
    """

    key: str | None = None
    prefix: tuple[str, str] | None = None
    renames: tuple[tuple[str, str], ...] = ()
    components: tuple[str, ...] = ()
    adapters: str | None = None
    lora_alpha: float | None = None
    lora_scaling: str | None = None
    spectral_axis: int | None = None


@dataclass(frozen=True)
class Reading:
    """One way to read a state dict.

    Attributes:
        state: the state dict.
        cleaning: how its names were cleaned.
        form: what is done with weights stored in parts.
        pairs: these weights, by clean names.
        sources: for each name of a tensor, the names in the file that it is made of.
        shapes: shape by the same names.
        prefixes: what leads most of the names into the structure.
        adapters: the tensors of adapters, which are no part of the above.
        counters: names of wrappers' counters, which are no part either.
    """

    state: StateDict
    cleaning: Cleaning
    form: str
    pairs: list[Pair]
    sources: dict[str, tuple[str, ...]]
    shapes: dict[str, Shape]
    prefixes: list[Prefix] = field(default_factory=list)
    adapters: Adapters = field(default_factory=Adapters)
    counters: tuple[str, ...] = ()

    @property
    def matched(self) -> int:
        """How many pairs of name and shape meet the structure."""
        return max((prefix.matched for prefix in self.prefixes), default=0)

    def entries(self, axis: int | None) -> dict[str, NewEntry]:
        """Give what can be written, by the names of ``sources``."""
        tensors = {
            c: self.state.tensors[n]._replace(name=c) for n, c in self.cleaning.names.items()
        }
        if self.form == PLAIN:
            return materialised(tensors, self.pairs, axis)
        back = {raw: name for name, (raw,) in self.sources.items()}
        return {
            back[raw]: tensors[c]._replace(name=back[raw]) for raw, c in self.cleaning.names.items()
        }


def freely_read(state: StateDict, wishes: Wishes, where: str) -> Reading:
    """Read a state dict where nothing says what its names should be.

    Raises:
        PatientError: two names would become one, or FSDP has flattened parameters.
        RecipeError: a wish is for what is not there.
    """
    adapters, base, counters = _parted(state, (), where)
    cleaning = clean(base, where)
    cleaning = renamed(cleaning, wishes.renames, where)
    reading = _formed(state, cleaning, PLAIN, adapters, counters)
    return replace(reading, prefixes=_stated(wishes.prefix, cleaning))


def readings(
    state: StateDict,
    wanted: Declared,
    wishes: Wishes,
    where: str,
    mark: Callable[[Shape], Hashable] = lambda shape: shape,
) -> Iterator[Reading]:
    """Give every way to read a state dict, with the prefixes that suit it best.

    Args:
        state: the state dict.
        wanted: the structure.
        wishes: what the user says.
        where: how errors name the file.
        mark: what of a shape must be equal for two tensors to meet; all of it by default.

    Raises:
        PatientError: FSDP has flattened parameters.
        RecipeError: a wish is for what is not there.
    """
    own = {part for name in wanted.shapes for part in name.split(".")}
    adapters, base, counters = _parted(state, own, where)
    for cleaning in clean_towards(base, list(wanted.shapes), where):
        cleaned = renamed(cleaning, wishes.renames, where)
        marks = {core(name, cleaned.words): mark(s) for name, s in wanted.shapes.items()}
        required = _required(wanted, wishes.components)
        for form in (PLAIN, KEPT, RESPELLED):
            reading = _formed(state, cleaned, form, adapters, counters)
            if form == PLAIN or reading.pairs:
                held = {name: mark(shape) for name, shape in reading.shapes.items()}
                found = _stated(wishes.prefix, cleaned) or solve(held, marks, required)
                yield replace(reading, prefixes=[_counted(one, held, marks) for one in found])


def _required(wanted: Declared, components: Sequence[str]) -> int:
    """Count the tensors that must be there."""
    begins = tuple(f"{one}." for one in components)
    return sum(not begins or f"{name}.".startswith(begins) for name in wanted.shapes)


def _parted(
    state: StateDict, own: Sequence[str] | set[str], where: str
) -> tuple[Adapters, list[str], list[str]]:
    """Part the names of a state dict: adapters, the base's own, wrappers' counters."""
    refuse_flat(state.tensors, where)
    tensors, counters = split_counters(state.tensors)
    adapters = adapters_of(tensors, own)
    gone = set(adapters.names)
    return adapters, [name for name in tensors if name not in gone], counters


def _formed(
    state: StateDict, cleaning: Cleaning, form: str, adapters: Adapters, counters: list[str]
) -> Reading:
    """Read weights that are stored in parts in one of the forms."""
    raw = {clean: name for name, clean in cleaning.names.items()}
    tensors = {name: state.tensors[old] for name, old in raw.items()}
    pairs = pairs_of(tensors)
    shapes = {name: entry.shape for name, entry in tensors.items()}
    sources: dict[str, tuple[str, ...]] = {name: (old,) for name, old in raw.items()}
    for pair in pairs if form != KEPT else ():
        parts = {part: (shapes.pop(part), sources.pop(part)) for part in pair.parts}
        if form == PLAIN:
            shapes[pair.name] = max((shape for shape, _ in parts.values()), key=prod)
            sources[pair.name] = tuple(old for _, (old,) in parts.values())
        else:
            spelled = pair.respelled()
            for part, (shape, source) in parts.items():
                shapes[spelled.get(part, part)] = shape
                sources[spelled.get(part, part)] = source
    return Reading(state, cleaning, form, pairs, sources, shapes, [], adapters, tuple(counters))


def _stated(prefix: tuple[str, str] | None, cleaning: Cleaning) -> list[Prefix]:
    """Give the prefix that the user stated, without what was cleaned off already."""
    if prefix is None:
        return []
    old, new = (".".join(p for p in one.split(".") if p not in cleaning.words) for one in prefix)
    return [Prefix(f"{old}.".removeprefix(cleaning.prefix).strip("."), new)]


def _counted(prefix: Prefix, held: dict[str, Hashable], wanted: dict[str, Hashable]) -> Prefix:
    """Count the pairs that meet under a prefix that the user stated."""
    moved = ((prefix.apply(name), mark) for name, mark in held.items())
    count = sum(to is not None and wanted.get(to) == mark for to, mark in moved)
    return Prefix(prefix.old, prefix.new, count)
