"""A recipe that was read: the surgeries with their options, and everything around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.operate.source import Source
from surgery.operate.step import Step
from surgery.recipe.schema import FORMAT, CheckForm, Output

if TYPE_CHECKING:
    from surgery.recipe.training import Training


@dataclass(frozen=True)
class Recipe:
    """Hold a recipe that has no mistakes.

    Attributes:
        steps: the surgeries, in order.
        patient: the source of what is operated on, or None where the caller brings it.
        seed: seed of everything that is drawn.
        output: what to write, or None; its path is as written, see ``resolve``.
        check: what to check the result with, or None.
        train: how to train afterwards, or None.
        plugins: version specifications by distribution.
        name: how errors name the recipe: a file, or ``recipe``.
        folder: what relative paths refer to: the recipe file's folder; the current folder for
            a shipped recipe and for one given as text or data.
        written: the recipe as plain data with what it extends, overrides and variables put in;
            no defaults, and paths as they stand there.
    """

    steps: tuple[Step, ...]
    patient: Source | None = None
    seed: int = 0
    output: Output | None = None
    check: CheckForm | None = None
    train: Training | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)
    name: str = "recipe"
    folder: Path = field(default_factory=Path.cwd)
    written: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self, path: str | Path) -> Path:
        """Give the absolute form of a path that stands in the recipe; ``~`` is the home."""
        return resolve(path, self.folder)

    @property
    def resolved(self) -> dict[str, Any]:
        """The whole recipe as plain data: all defaults filled in, nothing left to look up.

        The folder that it is written to is left out, so that the same recipe gives the same
        data wherever its result lies.
        """
        data: dict[str, Any] = {"recipe": FORMAT, "seed": self.seed}
        if self.plugins:
            data["plugins"] = dict(self.plugins)
        if self.patient is not None:
            data["patient"] = {
                "source": self.patient.name,
                **self.patient.model_dump(mode="json", by_alias=True),
            }
        data["surgeries"] = [step_data(step) for step in self.steps]
        if self.check is not None:
            data["check"] = self.check.model_dump(mode="json", exclude_none=True)
        if self.train is not None:
            data["train"] = self.train.to_json()
        return data

    def to_yaml(self) -> str:
        """Write ``resolved`` as YAML, always in the same order."""
        from surgery.recipe.dump import dump_yaml

        return dump_yaml(self.resolved)


def resolve(path: str | Path, folder: Path) -> Path:
    """Give the absolute form of a path that is relative to a folder."""
    return (folder / Path(path).expanduser()).resolve()


def step_data(step: Step) -> dict[str, Any]:
    """Give one entry of ``surgeries:`` as plain data."""
    data: dict[str, Any] = {"use": step.surgery.name, "at": step.at.to_json()}
    data["with"] = step.surgery.model_dump(mode="json", by_alias=True)
    if step.expect is not None:
        data["expect"] = step.expect
    if step.overlap:
        data["overlap"] = True
    return data
