"""Compare two checkpoints by what they mean: tensors, configuration, tokenizer, journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from surgery.checkpoint.compare import ENERGY, Change, Progress, compare
from surgery.checkpoint.stored import Stored
from surgery.flow.companions import Said, Tokens, compare_files, compare_tokens
from surgery.flow.sides import Side, base_side, side_of
from surgery.hooks.registry import Registry, registry
from surgery.operate.journal import Journal, StepEntry

_NO_TOKENS = Tokens()


@dataclass(frozen=True)
class Tensor:
    """A tensor that one side alone holds.

    Attributes:
        name: its name.
        dtype: its dtype by torch's name.
        shape: its shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Give the tensor as JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class StepChange:
    """A step that one journal alone records.

    Attributes:
        kind: ``added`` or ``removed``.
        number: its number in its journal, from 0.
        step: the step.
    """

    kind: str
    number: int
    step: StepEntry

    def to_json(self) -> dict[str, Any]:
        """Give the step as JSON values, its sites by path."""
        return {
            "kind": self.kind,
            "number": self.number,
            "use": self.step.use,
            "plugin": f"{self.step.plugin} {self.step.version}".strip(),
            "options": self.step.options,
            "sites": [site.get("path") for site in self.step.sites],
        }


@dataclass(frozen=True)
class Difference:
    """Everything in which two checkpoints differ.

    Attributes:
        before: name of the first side.
        after: name of the second side.
        equal: how many tensors are equal in every bit.
        changed: tensors that both sides hold and that differ.
        added: tensors that the second side alone holds.
        removed: tensors that the first side alone holds.
        said: what companion files say otherwise.
        tokens: what became of the vocabulary.
        steps: steps that one journal alone records.
        notes: remarks; what could not be compared is among them.
    """

    before: str
    after: str
    equal: int
    changed: tuple[Change, ...]
    added: tuple[Tensor, ...]
    removed: tuple[Tensor, ...]
    said: tuple[Said, ...] = ()
    tokens: Tokens = _NO_TOKENS
    steps: tuple[StepChange, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Tell whether anything differs."""
        tensors = (self.changed, self.added, self.removed)
        return any((*tensors, self.said, self.tokens, self.steps))

    def to_json(self) -> dict[str, Any]:
        """Give the difference as JSON values."""
        return {
            "before": self.before,
            "after": self.after,
            "differs": self.differs,
            "tensors": {
                "equal": self.equal,
                "changed": [one.to_json() for one in self.changed],
                "added": [one.to_json() for one in self.added],
                "removed": [one.to_json() for one in self.removed],
            },
            "files": [one.to_json() for one in self.said],
            "tokenizer": self.tokens.to_json(),
            "journal": [one.to_json() for one in self.steps],
            "notes": list(self.notes),
        }


def diff(
    a: str | Path,
    b: str | Path | None = None,
    *,
    base: str | Path | None = None,
    energy: float | None = ENERGY,
    plugins: Registry | None = None,
    progress: Progress = lambda done, total: None,
) -> Difference:
    """Compare two checkpoints, or an output with the base that its journal names.

    Args:
        a: the first side: a folder with a model, an output of ``surgery apply``, a weight file
            (safetensors, or a torch pickle of tensors by name), or ``SOURCE:NAME``.
        b: the second side; without one, ``a`` is an output and is compared with its base.
        base: where the base of an output is now, if it moved.
        energy: share of a change's energy that a low rank must hold; None to look for no ranks.
        plugins: what is installed; found by itself if not given.
        progress: called with bytes compared, and bytes to compare in all.

    Raises:
        PatientError: a side holds no weights.
        IntegrityError: a file is damaged, or an output's base is another one.
    """
    known, moved = plugins or registry(), None if base is None else Path(base)
    after = side_of(a if b is None else b, known, moved)
    before = base_side(Path(a), known, moved) if b is None else side_of(a, known, moved)
    return diff_sides(before, after, energy=energy, progress=progress)


def diff_sides(
    before: Side,
    after: Side,
    *,
    energy: float | None = ENERGY,
    progress: Progress = lambda done, total: None,
) -> Difference:
    """Compare two sides that are open; see ``diff``."""
    old, new = before.tensors, after.tensors
    changed = tuple(compare(old, new, energy=energy, progress=progress))
    files = (before.companions, after.companions)
    had, has = ({}, {}) if None in files else (files[0] or {}, files[1] or {})
    return Difference(
        before.name,
        after.name,
        sum(name in new for name in old) - len(changed),
        changed,
        _only(new, old),
        _only(old, new),
        compare_files(had, has),
        compare_tokens(had, has),
        _steps(before.journal, after.journal),
        (*before.notes, *after.notes, *_bare(before, after)),
    )


def _only(these: Mapping[str, Stored], others: Mapping[str, Stored]) -> tuple[Tensor, ...]:
    found = (one for name, one in these.items() if name not in others)
    return tuple(Tensor(one.name, one.dtype, one.shape) for one in found)


def _bare(before: Side, after: Side) -> list[str]:
    """Say which side is weights alone, so that configuration and tokenizer were not compared."""
    return [
        f"{side.name} is weights alone: configuration and tokenizer are not compared"
        for side in (before, after)
        if side.companions is None
    ]


def _steps(before: Journal | None, after: Journal | None) -> tuple[StepChange, ...]:
    """Compare journals step by step, in order."""
    old, new = before.steps if before else [], after.steps if after else []
    texts = ([step.model_dump_json() for step in old], [step.model_dump_json() for step in new])
    found: list[StepChange] = []
    for kind, a, b, c, d in SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
        if kind != "equal":
            found += [StepChange("removed", n, old[n]) for n in range(a, b)]
            found += [StepChange("added", n, new[n]) for n in range(c, d)]
    return tuple(found)
