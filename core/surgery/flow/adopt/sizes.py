"""Fit the numbers of a declared structure to the shapes of a file; ask for what shapes do not show.

Each number is changed in turn, and the structure built again on meta: the axes that move with it
alone show its value. Nothing is known about the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias

from surgery.checkpoint.legacy.declared import Declared, Shape, declared
from surgery.checkpoint.legacy.find import StateDict
from surgery.checkpoint.legacy.reading import Wishes
from surgery.checkpoint.legacy.resolve import resolve_towards
from surgery.checkpoint.legacy.shapes import counted
from surgery.errors import RecipeError, RefusedError, SurgeryError, did_you_mean
from surgery.operate.source import Source

Place: TypeAlias = tuple[str, int]
"""An axis of a tensor; the axis -1 of a container is the number of its layers."""

OPTION, SHAPES, TOLD, STATED, DEFAULT = (
    "--set", "shapes", "the file's hyper-parameters", "the declared structure", "its default",
)  # fmt: skip

_ROUNDS = 4


@dataclass(frozen=True)
class Fitted:
    """One number of a structure.

    Attributes:
        name: its name.
        value: its value.
        origin: what says so.
        before: what was declared, where that was another value.
    """

    name: str
    value: float
    origin: str
    before: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the number as JSON values."""
        data = {"name": self.name, "value": self.value, "from": self.origin}
        return data if self.before is None else {**data, "declared": self.before}


@dataclass(frozen=True)
class Fit:
    """How to fit.

    Attributes:
        states: the state dicts of the file.
        wishes: what the user says about them.
        where: how errors name the file.
        told: numbers that the file keeps about itself.
        given: numbers that the user states.
        infer: False to state numbers only.
        defaults: take defaults of what nothing shows.
    """

    states: list[StateDict]
    wishes: Wishes
    where: str
    told: Mapping[str, float] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)
    infer: bool = True
    defaults: bool = False


def fit(source: Source, task: Fit) -> tuple[Source, tuple[Fitted, ...]]:
    """Give a source its numbers: stated ones, those that the file tells, those that shapes show.

    Args:
        source: the declared structure.
        task: what is known.

    Returns:
        The source with its numbers, and each number with its origin.

    Raises:
        RecipeError: a stated number is unknown, or neither shapes nor anybody shows one.
        RefusedError: the source has no numbers.
    """
    known = _stated(source, task)
    if task.infer:
        known, sound = _shown(source, known, task)
        _ask(source, known, sound, task)
    kept = {one.name: one.value for one in known.values() if one.origin not in (STATED, DEFAULT)}
    return source.with_numbers(kept), tuple(known.values())


def _stated(source: Source, task: Fit) -> dict[str, Fitted]:
    """Give the numbers of a source as declared, told and given."""
    numbers = source.numbers()
    if not numbers:
        wanted = "a structure whose numbers can be changed"
        raise RefusedError("--like", wanted, f"the source {source.name}", "edit the structure")
    for name in task.given:
        if name not in numbers:
            hint = did_you_mean(name, numbers)
            raise RecipeError(f"--set {name}", "a number of the structure", "no such number", hint)
    found = {}
    for name, (value, stated) in numbers.items():
        one = Fitted(name, value, STATED if stated else DEFAULT)
        for values, origin in ((task.told, TOLD), (task.given, OPTION)):
            if name in values and not isinstance(values[name], bool):
                one = _changed(one, values[name], origin)
        found[name] = one
    return found


def _changed(one: Fitted, value: float, origin: str) -> Fitted:
    before = one.value if one.before is None else one.before
    return replace(one, value=value, origin=origin, before=before if before != value else None)


def _shown(
    source: Source, known: dict[str, Fitted], task: Fit
) -> tuple[dict[str, Fitted], dict[str, Fitted]]:
    """Read numbers off the file's shapes, round by round; solved ones help with the next.

    Returns:
        The numbers, and the last ones with which the structure could be built.
    """
    sound = known
    for _ in range(_ROUNDS):
        base = _build(source, known)
        if base is None:
            return known, sound
        moved = {name: _moves(source, known, name, base) for name in _free(known)}
        solved = _solved(known, base, _target(base, task), moved)
        changed = any(known[name].value != one.value for name, one in solved.items())
        sound, known = known, {**known, **solved}
        if not changed:
            return known, known
    return known, sound


def _free(known: Mapping[str, Fitted]) -> list[str]:
    """Name the whole numbers that the user did not state."""
    return [n for n, one in known.items() if one.origin != OPTION and isinstance(one.value, int)]


def _solved(
    known: Mapping[str, Fitted],
    base: _Built,
    target: Mapping[Place, int],
    moved: Mapping[str, Mapping[Place, Fraction]],
) -> dict[str, Fitted]:
    """Solve the numbers that move some axis alone; what was stated is believed only after that.

    Returns:
        The numbers that shapes show, with their values.
    """
    sure: set[str] = {name for name, one in known.items() if one.origin == OPTION}
    found: dict[str, Fitted] = {}
    trusted = {name for name, one in known.items() if one.origin in (STATED, TOLD)}
    for believed in (set[str](), trusted):
        while True:
            fresh = dict(_exclusive(known, base, target, moved, sure, believed - found.keys()))
            fresh = {n: one for n, one in fresh.items() if n not in found and n not in believed}
            if not fresh:
                break
            found |= fresh
            sure |= fresh.keys()
            if any(known[name].value != one.value for name, one in fresh.items()):
                return found  # what moves with them must be looked at anew
    return found


def _exclusive(
    known: Mapping[str, Fitted],
    base: _Built,
    target: Mapping[Place, int],
    moved: Mapping[str, Mapping[Place, Fraction]],
    sure: Collection[str],
    believed: Collection[str],
) -> Iterator[tuple[str, Fitted]]:
    """Give the numbers whose axes no other unknown number moves."""
    movers: dict[Place, list[str]] = {}
    for name, places in moved.items():
        for place in places:
            movers.setdefault(place, []).append(name)
    for name in moved:
        alone = [
            place
            for place in moved[name]
            if place in target
            and all(n == name or n in sure or n in believed for n in movers[place])
        ]
        values = {_value(known[name], base, target, moved[name], place) for place in alone}
        value = values.pop() if len(values) == 1 else None
        if value is not None and value.denominator == 1 and value >= 0:
            yield name, _changed(known[name], int(value), SHAPES)


def _value(
    one: Fitted,
    base: _Built,
    target: Mapping[Place, int],
    moves: Mapping[Place, Fraction],
    place: Place,
) -> Fraction:
    """Give the value at which an axis has the size that the file shows."""
    return int(one.value) + (target[place] - base.places[place]) / moves[place]


@dataclass(frozen=True)
class _Built:
    """A structure on meta: its shapes, the size of each axis, and what modules keep in mind."""

    shapes: dict[str, Shape]
    places: dict[Place, int]
    attributes: dict[tuple[str, str], Any]
    unsaved: frozenset[str]


def _build(source: Source, known: Mapping[str, Fitted]) -> _Built | None:
    """Build a structure of which every number is stated; None where the numbers do not fit."""
    try:
        model = source.with_numbers({n: one.value for n, one in known.items()}).build().model
    except SurgeryError:
        return None
    found = declared(model)
    attributes = {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float) and name != "training"
    }
    return _Built(found.shapes, _places(found.shapes), attributes, found.unsaved)


def _places(shapes: Mapping[str, Shape]) -> dict[Place, int]:
    axes = {(name, axis): n for name, shape in shapes.items() for axis, n in enumerate(shape)}
    return {**axes, **{(path, -1): count for path, count in counted(shapes).items()}}


def _moves(
    source: Source, known: Mapping[str, Fitted], name: str, base: _Built
) -> dict[Place, Fraction]:
    """Give the axes that move with a number, and by how much for each step of it."""
    value = int(known[name].value)
    for other in (2 * value or 1, value // 2, value + 1):
        built = _build(source, {**known, name: replace(known[name], value=other)})
        if built is not None and other != value:
            return {
                place: Fraction(built.places[place] - size, other - value)
                for place, size in base.places.items()
                if place in built.places and built.places[place] != size
            }
    return {}


def _target(base: _Built, task: Fit) -> dict[Place, int]:
    """Give the sizes in the file of the axes of a structure; names and ranks alone must meet."""
    wanted = Declared(base.shapes, {name: name for name in base.shapes}, base.unsaved)
    found = resolve_towards(task.states, wanted, task.wishes, task.where, mark=len)
    return _places({name: tuple(entry.shape) for name, entry in found.entries.items()})


def _ask(
    source: Source, known: Mapping[str, Fitted], sound: Mapping[str, Fitted], task: Fit
) -> None:
    """Ask for the numbers that matter, that shapes do not show, and that nobody stated.

    Raises:
        RecipeError: there are some.
    """
    base = None if task.defaults else _build(source, sound)
    unsure = [name for name, one in known.items() if one.origin == DEFAULT]
    asked = [n for n in unsure if base is not None and _matters(source, sound, n, base)]
    if asked:
        options = " ".join(f"--set {name}={known[name].value}" for name in asked[:6])
        raise RecipeError(
            "--set", f"a value for each of: {', '.join(asked)}",
            "none: shapes do not show them, and the declared structure does not state them",
            f"such as {options} (their defaults; one that is given may let shapes show others), "
            "or --defaults to take all defaults",
        )  # fmt: skip


def _matters(source: Source, known: Mapping[str, Fitted], name: str, base: _Built) -> bool:
    """Tell whether a number changes what modules keep in mind, or any shape."""
    value = known[name].value
    for other in (2 * value, value // 2, value + 1) if value else (1, 0.5):
        built = _build(source, {**known, name: replace(known[name], value=type(value)(other))})
        if built is not None and other != value:
            return (built.attributes, built.shapes) != (base.attributes, base.shapes)
    return False
