"""Gather what a page tells: the anatomy before and after, the plan, the proof, the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.anatomy.walk import walk
from surgery.checkpoint.digests import Progress
from surgery.checkpoint.manifest import MANIFEST, read_manifest
from surgery.checkpoint.strict import read_text
from surgery.checks.check import Check
from surgery.errors import SurgeryError
from surgery.flow.files import JOURNAL, journal_in
from surgery.flow.load import replay, source_of
from surgery.flow.recipe import plan_recipe, source_of_recipe
from surgery.flow.verify import verify
from surgery.operate.journal import Journal, versions
from surgery.recipe.read import read_recipe
from surgery.report.html.anatomy import Diagram
from surgery.report.html.marks import marks_after, marks_before
from surgery.report.html.metrics import Metrics
from surgery.report.html.place import Place, place_of
from surgery.report.html.plan import Tables, tables_of, tables_of_journal
from surgery.report.shares import shares_of

if TYPE_CHECKING:
    from surgery.hooks.registry import Registry
    from surgery.operate.operation import Operation
    from surgery.operate.patient import Patient


@dataclass(frozen=True)
class Story:
    """What a page tells.

    Attributes:
        place: where it was found.
        before: the anatomy of the base, where it could be built.
        after: the anatomy of the result, likewise.
        tables: the plan.
        checks: the proof, made anew.
        journal: the record, where there is an output.
        levels: guards that the recipe lets warn, or leaves out.
        recipe: the recipe, as text.
        files: size in bytes and sha256 of each file of the output.
        notes: what could not be told, and why.
    """

    place: Place
    before: Diagram | None = None
    after: Diagram | None = None
    tables: Tables | None = None
    checks: tuple[Check, ...] = ()
    journal: Journal | None = None
    levels: Mapping[str, str] = field(default_factory=dict)
    recipe: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> Metrics | None:
        """What was recorded of a training."""
        return self.place.metrics


def story_of(
    given: str | Path,
    known: Registry,
    *,
    base: str | Path | None = None,
    fast: bool = False,
    progress: Progress | None = None,
) -> Story:
    """Gather what there is to tell of an output or of a run; no weight is computed.

    Args:
        given: the folder of either, or a URL.
        known: what the plugins offer.
        base: where the base is now, if it moved.
        fast: prove by sizes and headers alone, not by every byte.
        progress: called with each number of bytes that was hashed, from several threads.

    Raises:
        SurgeryError: the folder holds neither, or its journal is damaged.
    """
    place = place_of(given)
    story = Story(place, recipe=read_text(place.recipe) if place.recipe else "")
    if place.output is not None:
        checks = verify(place.output, known, base=base, fast=fast, progress=progress)
        story = _of_output(replace(story, checks=tuple(checks)), place.output, known, base)
    else:
        story = _of_recipe(story, known)
    return _with_levels(story, known) if place.run else story


def _of_output(story: Story, folder: Path, known: Registry, base: str | Path | None) -> Story:
    """Tell of an output; where its base is not at hand, what its journal says."""
    journal = journal_in(folder)
    files = _attempted(lambda: dict(read_manifest(folder / MANIFEST)), {})
    story = replace(story, journal=journal, files=files)
    try:
        source = source_of(journal.base, folder, base, known)
        before = _diagram(source.build(), known)
        operation = replay(journal, source.build(), known, folder)
    except SurgeryError as error:
        note = f"the anatomies are left out, as the base could not be built: {error}"
        return replace(story, tables=tables_of_journal(journal), notes=(*story.notes, note))
    return _operated(story, before, operation, known)


def _of_recipe(story: Story, known: Registry) -> Story:
    """Tell of a run that has no output yet, from its recipe."""
    notes = (*story.notes, f"there is no output yet, so there is no {JOURNAL} and no proof")
    story = replace(story, notes=notes)
    if story.place.recipe is None:
        return story
    try:
        recipe = read_recipe(str(story.place.recipe), registry=known)
        before = _diagram(source_of_recipe(recipe).build(), known)
        operation = plan_recipe(recipe, known)
    except SurgeryError as error:
        return replace(story, notes=(*notes, f"the plan is left out: {error}"))
    return _operated(story, before, operation, known)


def _operated(story: Story, before: Diagram, operation: Operation, known: Registry) -> Story:
    """Add plan and marked anatomies of what was done on meta."""
    plan = operation.plan
    after = _diagram(operation.patient, known)
    return replace(
        story,
        before=replace(before, marks=marks_before(plan, before.anatomy)),
        after=replace(after, marks=marks_after(plan, after.anatomy)),
        tables=tables_of(plan),
    )


def _diagram(patient: Patient, known: Registry) -> Diagram:
    anatomy = walk(patient.model, patient.inputs, families=known.families())
    return Diagram(anatomy, shares_of(patient.model))


def _with_levels(story: Story, known: Registry) -> Story:
    """Add what the recipe says of guards."""
    if story.place.recipe is None:
        return story
    try:
        train = read_recipe(str(story.place.recipe), registry=known).train
        levels: Mapping[Any, Any] = train.form.guards if train else {}
    except SurgeryError as error:
        return replace(story, notes=(*story.notes, f"the guards are left out: {error}"))
    return replace(story, levels=dict(levels.items()))


def environment_of(story: Story) -> dict[str, str]:
    """Give what took part: versions, devices, the base."""
    found: dict[str, str] = {}
    for begun in story.metrics.begun[-1:] if story.metrics else ():
        found |= {str(k): _text(v) for k, v in begun.items() if k != "versions"}
        found |= _versions(begun.get("versions"))
    if story.journal is not None:
        found |= _versions(story.journal.versions)
        found |= {f"plugin {one.plugin}": one.version for one in story.journal.steps}
        found |= {"base": str(story.journal.base.get("source", "a model given from Python"))}
        options = story.journal.base.get("options", {})
        found |= {f"base {key}": _text(value) for key, value in options.items() if value}
        found["seed"] = str(story.journal.seed)
    found["this page was made with"] = ", ".join(f"{k} {v}" for k, v in versions().items())
    return found


def _versions(given: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in given.items()} if isinstance(given, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _attempted(make: Any, otherwise: Any) -> Any:
    """Give what a call gives, or something else where it fails; the checks say so already."""
    try:
        return make()
    except SurgeryError:
        return otherwise
