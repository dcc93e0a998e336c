"""The surgery ``head``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Init, Rewrite, SetAttribute, Value
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.fresh.build import build, buildable
from surgery_plugins.surgeries.fresh.difference import Changed
from surgery_plugins.surgeries.fresh.follow import Change, change, follow, rewrite, tensor_of
from surgery_plugins.surgeries.fresh.settings import below, topmost
from surgery_plugins.surgeries.head.drawn import Carried, Drawn, drawn
from surgery_plugins.surgeries.head.labels import label_settings, names_of, rows_kept
from surgery_plugins.surgeries.head.ties import tied_elsewhere

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


class Head(Surgery):
    """Give a head other classes or fresh values.

    What is drawn is drawn as the model's class does it; ``id2label`` and ``label2id`` follow.
    """

    name: ClassVar[str] = "head"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"at": {"match": "head|text_side"}, "with": {"labels": 7}},
        {"at": {"match": "head|text_side"}, "with": {"reset": True}},
    )

    labels: int | list[str] | None = Field(
        default=None, description="Number of classes, or their names in order; drawn anew."
    )
    carry: bool = Field(
        default=False, description="Keep the rows of classes that were there under the same name."
    )
    reset: bool = Field(default=False, description="Draw everything at and below the sites anew.")

    @model_validator(mode="after")
    def _some(self) -> Head:
        if self.labels is None and not self.reset:
            raise ValueError("expected labels or reset")
        if self.carry and (not isinstance(self.labels, list) or self.reset):
            raise ValueError("expected carry only with the names of labels and without reset")
        names = self.labels if isinstance(self.labels, list) else []
        if len(set(names)) != len(names) or self.labels in (0, []):
            raise ValueError("expected one label at least, and each name once")
        return self

    def refuse(self, site: Site) -> str | None:
        """Refuse raw parameters, parts of fused weights, and to draw a whole model anew."""
        if self.reset and not site.path:
            return "it is the whole model; select the head alone with `at:`"
        if site.part is not None:
            return f"{site.part} is only some rows of it"
        return "it is a parameter and no module" if site.is_parameter else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the topmost sites."""
        return topmost(sites)

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Draw the heads' tensors; the configuration follows."""
        self._check_ties(sites, patient)
        edits = [] if self.labels is None else list(self._relabel(sites, patient))
        if self.reset:
            done = {edit.name for edit in edits if isinstance(edit, Rewrite)}
            edits += [e for e in _reset(sites, patient) if e.name not in done]
        if not any(isinstance(edit, Rewrite) for edit in edits):
            raise RefusedError("head", "a head whose weights depend on the labels", "none")
        return edits

    def _check_ties(self, sites: Sequence[Site], patient: Patient) -> None:
        for name, other in tied_elsewhere(sites, patient.model):
            raise RefusedError(
                f"head: {name}",
                "a weight of its own",
                f"one that is shared with {other}",
                "write `use: untie` in a step before",
            )

    def _relabel(self, sites: Sequence[Site], patient: Patient) -> Iterator[Edit]:
        """Draw what depends on the number of labels."""
        if not buildable(patient):
            yield from self._alone(sites, patient)
            return
        before = names_of(patient.config)
        after = self.labels if isinstance(self.labels, list) else self.labels or 0
        made = _relabelled(patient, after, len(before))
        rows = rows_kept(before, after) if self.carry and isinstance(after, list) else ()

        def rule(one: Changed) -> Value:
            fill = drawn(one.name, made.model)
            if not self.carry:
                return Init(fill)
            _check_rows(one, len(before))
            return Derive((one.name,), Carried(fill, tuple(one.new.shape), rows))

        yield from follow(made, sites, rule, "head")

    def _alone(self, sites: Sequence[Site], patient: Patient) -> Iterator[Edit]:
        """Give linear layers other rows, without a configuration."""
        from torch import nn

        if not isinstance(self.labels, int):
            raise RefusedError("head.labels", "a number: there is no configuration", "names")
        for site in sites:
            old: Any = patient.model.get_submodule(site.path)
            if site.type != "Linear":
                raise RefusedError(f"head: {site.path}", "a linear layer", site.type)
            new = nn.Linear(old.in_features, self.labels, old.bias is not None, device="meta")
            yield SetAttribute(f"{site.path}.out_features", self.labels)
            for leaf, parameter in new.named_parameters():
                name = f"{site.path}.{leaf}"
                yield rewrite(name, parameter, Init(Drawn(name, new)), patient)


def _relabelled(patient: Patient, after: int | list[str], before: int) -> Change:
    """Change the labels; where their number stays, the same tensors are meant."""
    made = change(patient, label_settings(after))
    if any(one.weight for one in made.found.tensors):
        return made
    probe = change(patient, label_settings(before + 1)).found.tensors
    same = tuple(replace(one, new=one.old) for one in probe if one.weight)
    return replace(made, found=replace(made.found, tensors=same))


def _check_rows(one: Changed, labels: int) -> None:
    if one.old.shape[0] != labels:
        raise RefusedError(
            f"head: {one.name}",
            f"one row for each of {labels} labels",
            f"shape {tuple(one.old.shape)}",
            "leave `carry:` out",
        )


def _reset(sites: Sequence[Site], patient: Patient) -> Iterator[Rewrite]:
    """Draw every parameter at and below the sites anew."""

    from surgery.anatomy.stand_in import twin
    from surgery.operate.behaviour import base_parameters

    anew = buildable(patient)
    model = build(patient, patient.config) if anew else twin(patient.model)
    paths = below(sites, patient.model)
    for name, parameter in base_parameters(patient.model):
        if name.rpartition(".")[0] in paths:
            new = tensor_of(model, name) if anew else parameter.detach().to("meta")
            yield rewrite(name, new, Init(drawn(name, model)), patient)
