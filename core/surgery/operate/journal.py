"""The journal: what was done, as data that can be replayed. No code, no pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from platform import python_version
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Layer, Site
from surgery.errors import IntegrityError
from surgery.operate.plan import Plan, PlannedStep
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
        options: the surgery's options, defaults included.
        sites: where it operated.
    """

    use: str
    plugin: str
    version: str
    options: dict[str, Any]
    sites: list[dict[str, Any]]


class TensorEntry(_Data):
    """One tensor that the operation added or changed.

    Attributes:
        shape: its shape.
        dtype: its dtype by torch's name.
        trainable: whether it takes gradients.
        stored: False where the base holds the same values under another name.
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
        versions: of python, torch and this package, for the reader.
    """

    journal: int = FORMAT
    seed: int
    steps: list[StepEntry]
    tensors: dict[str, TensorEntry]
    trained: list[str] = Field(default_factory=list)
    base: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


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
        versions=versions(),
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
        IntegrityError: the text is no journal of this format.
    """
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
    journal: Journal, find: Callable[[StepEntry], type[Surgery]], where: str
) -> tuple[list[Step], list[list[Site]]]:
    """Give the steps and sites of a journal, to be operated again.

    Args:
        journal: the record.
        find: gives the class of an entry's surgery.
        where: how errors name the journal.
    """
    steps, sites = [], []
    for number, entry in enumerate(journal.steps):
        place = f"{where}: steps[{number}]"
        try:
            surgery = find(entry).model_validate_json(_dumps(entry.options))
        except ValidationError as error:
            first = error.errors()[0]
            raise IntegrityError(
                place,
                f"options that {entry.use} of {entry.plugin} accepts",
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                f"install {entry.plugin}=={entry.version}, which wrote it",
            ) from None
        steps.append(
            Step(
                surgery, Selector(), overlap=True, where=place, plugin=(entry.plugin, entry.version)
            )
        )
        sites.append([site_from_json(data) for data in entry.sites])
    return steps, sites


def _entry(planned: PlannedStep) -> StepEntry:
    surgery, (plugin, version) = planned.step.surgery, planned.step.plugin
    return StepEntry(
        use=surgery.name,
        plugin=plugin,
        version=version,
        options=surgery.model_dump(mode="json"),
        sites=[site_to_json(site) for site in planned.sites],
    )


def _dumps(value: Any) -> str:
    import json

    return json.dumps(value)


_DEFAULTS = {f.name: f.default for f in fields(Site)}


def site_to_json(site: Site) -> dict[str, Any]:
    """Give a site as JSON values, defaults left out."""
    data: dict[str, Any] = {"path": site.path}
    if site.paths != (site.path,):
        data["paths"] = list(site.paths)
    for name in ("parameter", "tower", "out_axis", "in_axis", "evidence", "direct"):
        if getattr(site, name) != _DEFAULTS[name]:
            data[name] = getattr(site, name)
    for name in ("types", "shape"):
        data[name] = list(getattr(site, name))
    if site.roles:
        data["roles"] = sorted(site.roles)
    if site.rows:
        data["rows"] = {role: [list(r) for r in ranges] for role, ranges in site.rows.items()}
    if site.layer:
        data["layer"] = [site.layer.number, site.layer.container, site.layer.count]
    return data


def site_from_json(data: Mapping[str, Any]) -> Site:
    """Give the site of JSON values that ``site_to_json`` wrote.

    Raises:
        IntegrityError: they are no site.
    """
    try:
        return Site(
            path=str(data["path"]),
            paths=tuple(data.get("paths", (data["path"],))),
            parameter=data.get("parameter"),
            types=tuple(data["types"]),
            roles=frozenset(data.get("roles", ())),
            rows={role: _ranges(ranges) for role, ranges in data.get("rows", {}).items()},
            layer=Layer(*data["layer"]) if "layer" in data else None,
            tower=data.get("tower"),
            shape=tuple(data["shape"]),
            out_axis=int(data.get("out_axis", 0)),
            in_axis=data.get("in_axis"),
            evidence=str(data.get("evidence", "none")),
            direct=bool(data.get("direct", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(
            "the journal", "a site", f"{data!r} ({error!r})", "write the checkpoint anew"
        ) from None


def _ranges(ranges: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(start), int(stop)) for start, stop in ranges)
