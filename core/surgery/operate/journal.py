"""The journal: what was done, as data that can be replayed. No code, no pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from platform import python_version
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Site
from surgery.checkpoint.strict import parse_json
from surgery.errors import IntegrityError
from surgery.operate.plan import Plan, PlannedStep
from surgery.operate.site_entry import site_from_json, site_to_json
from surgery.operate.slots import Slot, folded_name
from surgery.operate.step import Step
from surgery.operate.surgery import Surgery

FORMAT = 1
"""Version of the journal's format."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StepEntry(_Data):
    """One surgery that was done.

    Attributes:
        use: the surgery's name.
        plugin: distribution that offers it.
        version: that distribution's version.
        needs: versions of other distributions that offer what the options name.
        options: the surgery's options, defaults included.
        sites: where it operated.
    """

    use: str
    plugin: str
    version: str
    needs: dict[str, str] = Field(default_factory=dict)
    options: dict[str, Any]
    sites: list[dict[str, Any]]


class TensorEntry(_Data):
    """One tensor that the operation added or changed.

    Attributes:
        shape: its shape.
        dtype: its dtype by torch's name.
        trainable: whether it takes gradients.
        stored: False where the base holds the same values, perhaps under another name.
    """

    shape: list[int]
    dtype: str
    trainable: bool
    stored: bool


class Journal(_Data):
    """The record that travels with a checkpoint.

    Attributes:
        journal: version of the format.
        seed: the recipe's seed.
        steps: what was done, in order.
        tensors: every tensor that was added or changed, by name.
        trained: names of base tensors whose values differ from the base because of training.
        base: where the patient came from, and its digest.
        whole: where the folder holds a whole model: the source that reads it, and the folder of
            what the base is built from.
        folded: tensors that were added and folded into others; they are stored, for undo.
        versions: of python, torch and this package, for the reader.
    """

    journal: int = FORMAT
    seed: int
    steps: list[StepEntry]
    tensors: dict[str, TensorEntry]
    trained: list[str] = Field(default_factory=list)
    base: dict[str, Any] = Field(default_factory=dict)
    whole: dict[str, Any] | None = None
    folded: dict[str, TensorEntry] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)

    @field_validator("whole")
    @classmethod
    def _stays_in_the_folder(cls, whole: dict[str, Any] | None) -> dict[str, Any] | None:
        kinds = {"source": str, "options": dict, "structure": str}
        if whole is not None:
            if {name: type(whole.get(name)) for name in whole} != kinds:
                raise ValueError("expected a source, its options, and a structure")
            place = PurePosixPath(whole["structure"])
            if place.is_absolute() or ".." in place.parts or "\\" in whole["structure"]:
                raise ValueError("structure: expected a folder in the output")
        return whole

    @field_validator("base")
    @classmethod
    def _names_a_base(cls, base: dict[str, Any]) -> dict[str, Any]:
        digest = base.get("digest", {})
        files = digest.get("files", {}) if isinstance(digest, dict) else None
        if not isinstance(files, dict) or not all(isinstance(one, dict) for one in files.values()):
            raise ValueError("digest: expected the files of the base by name")
        if "source" in base and not isinstance(base["source"], str):
            raise ValueError("source: expected the name of a source")
        if "source" in base and not isinstance(base.get("options"), dict):
            raise ValueError("options: expected the options of the source")
        plugin = base.get("plugin", {"name": "", "version": ""})
        if not isinstance(plugin, dict) or {*map(type, plugin.values())} != {str}:
            raise ValueError("plugin: expected the name and the version of a plugin")
        return base


def journal_of(plan: Plan, base: Mapping[str, Any] | None = None) -> Journal:
    """Write the journal of a plan.

    Args:
        plan: what was done.
        base: where the patient came from, and its digest.
    """
    rows = {row.name: row for row in plan.after}
    return Journal(
        seed=plan.seed,
        steps=[_entry(planned) for planned in plan.steps],
        tensors={
            name: TensorEntry(
                shape=list(slot.shape),
                dtype=slot.dtype,
                trainable=rows[name].trainable,
                stored=slot.saved,
            )
            for name, slot in plan.slots.items()
        },
        base=dict(base or {}),
        folded={folded_name(slot, plan.slots): _folded(slot) for slot in plan.folded},
        versions=versions(),
    )


def with_trained(journal: Journal, names: Iterable[str]) -> Journal:
    """Let a journal say which tensors a training may have changed: their values are stored.

    Args:
        journal: the record.
        names: tensors of the base, and tensors that were added or changed.
    """
    tensors, trained = dict(journal.tensors), dict.fromkeys(names)
    for name in trained.keys() & tensors.keys():
        tensors[name] = tensors[name].model_copy(update={"stored": True})
    base = [name for name in trained if name not in tensors]
    return journal.model_copy(update={"tensors": tensors, "trained": base})


def _folded(slot: Slot) -> TensorEntry:
    return TensorEntry(
        shape=list(slot.shape), dtype=slot.dtype, trainable=slot.trainable, stored=True
    )


def versions() -> dict[str, str]:
    """Give the versions of what takes part."""
    from importlib.metadata import version

    import torch

    return {
        "model-surgery": version("model-surgery"),
        "python": python_version(),
        "torch": torch.__version__,
    }


def read_journal(text: str, where: str) -> Journal:
    """Read a journal.

    Raises:
        IntegrityError: the text is no journal of this format, or says something twice.
    """
    parse_json(text, where)
    try:
        journal = Journal.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise IntegrityError(
            where, "a journal", f"{place}: {first['msg']}", "write the checkpoint anew"
        ) from None
    if journal.journal != FORMAT:
        raise IntegrityError(
            where, f"a journal of format {FORMAT}", f"format {journal.journal}", "update surgery"
        )
    return journal


def steps_of(
    journal: Journal, find: Callable[[StepEntry], type[Surgery]], where: str, context: Any = None
) -> tuple[list[Step], list[list[Site]]]:
    """Give the steps and sites of a journal, to be operated again.

    Args:
        journal: the record.
        find: gives the class of an entry's surgery.
        where: how errors name the journal.
        context: what plugins offer, for the validators of options.
    """
    steps, sites = [], []
    for number, entry in enumerate(journal.steps):
        place = f"{where}: steps[{number}]"
        try:
            surgery = find(entry).model_validate_json(_dumps(entry.options), context=context)
        except ValidationError as error:
            first = error.errors()[0]
            raise IntegrityError(
                place,
                f"options that {entry.use} of {entry.plugin} accepts",
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                f"install {entry.plugin}=={entry.version}, which wrote it",
            ) from None
        owner, needs = (entry.plugin, entry.version), tuple(entry.needs.items())
        steps.append(
            Step(surgery, Selector(), overlap=True, where=place, plugin=owner, needs=needs)
        )
        sites.append([site_from_json(data) for data in entry.sites])
    return steps, sites


def _entry(planned: PlannedStep) -> StepEntry:
    surgery, (plugin, version) = planned.step.surgery, planned.step.plugin
    return StepEntry(
        use=surgery.name,
        plugin=plugin,
        version=version,
        needs=dict(planned.step.needs),
        options=surgery.model_dump(mode="json"),
        sites=[site_to_json(site) for site in planned.sites],
    )


def _dumps(value: Any) -> str:
    import json

    return json.dumps(value)
