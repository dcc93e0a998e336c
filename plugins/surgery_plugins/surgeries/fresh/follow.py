"""Turn a change of the configuration into edits: what follows from it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Rewrite, SetAttribute, Value
from surgery_plugins.surgeries.fresh.build import build
from surgery_plugins.surgeries.fresh.difference import Changed, Difference, difference
from surgery_plugins.surgeries.fresh.prompt import place_edits, processor_edits
from surgery_plugins.surgeries.fresh.settings import below, changed, config_edits

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient

Rule: TypeAlias = "Callable[[Changed], Value | None]"
"""Says where the values of a parameter of another shape come from; None where it cannot."""


@dataclass(frozen=True)
class Constant:
    """Give values that follow from the configuration alone, whatever the weights are.

    Attributes:
        values: the tensor.
    """

    values: Tensor

    def __call__(self, *, generator: Generator) -> Tensor:
        """Give the values."""
        return self.values.clone()


@dataclass(frozen=True)
class Change:
    """A change of a patient's configuration, and what it makes of the model.

    Attributes:
        patient: what is operated on.
        settings: the new values by dotted key.
        config: the changed configuration.
        model: the model that it builds: parameters on meta, buffers with their values.
        found: what differs from the model that the present configuration builds.
    """

    patient: Patient
    settings: Mapping[str, Any]
    config: Any
    model: nn.Module
    found: Difference


def change(patient: Patient, settings: Mapping[str, Any]) -> Change:
    """Build a patient anew from its configuration, as it is and changed, and compare.

    Args:
        patient: what is operated on; it is not touched.
        settings: new values by dotted key.

    Raises:
        SurgeryError: the changed configuration builds no such model.
    """
    config = changed(patient.config, settings)
    old, new = build(patient, patient.config), build(patient, config)
    return Change(patient, settings, config, new, difference(old, new))


def follow(made: Change, sites: Sequence[Site], rule: Rule, name: str) -> Iterator[Edit]:
    """Give the edits that make a patient what its changed configuration says.

    Args:
        made: the change.
        sites: where tensors may change, and below.
        rule: says where the values of a parameter of another shape come from.
        name: the surgery, for errors.

    Raises:
        RefusedError: a parameter changes that no rule knows, one that is in no selected site, or
            one that is not what the present configuration builds.
    """
    paths = below(sites, made.patient.model)
    yield from config_edits(made.patient.config, made.config)
    yield from place_edits(made.patient, made.model)
    yield from processor_edits(made.patient, made.config)
    for one in made.found.tensors:
        _check(one, made.patient, paths, name)
        value = rule(one) if one.weight else table_value(one.new)
        if value is None:
            raise _unknown(one, name)
        yield rewrite(one.name, one.new, value, made.patient)
    for attribute, new in made.found.attributes.items():
        yield SetAttribute(attribute, new)


def table_value(table: Tensor) -> Value:
    """Give the value of a tensor that follows from the configuration."""
    return Derive((), Constant(table))


def rewrite(name: str, new: Tensor, value: Value, patient: Patient) -> Rewrite:
    """Give the edit for one tensor: weights keep the dtype of the patient's, tables have theirs.

    Args:
        name: the tensor.
        new: what a model built anew has.
        value: where its values come from.
        patient: what is operated on.
    """
    there = tensor_of(patient.model, name) if new.is_meta else new
    return Rewrite(name, tuple(new.shape), str(there.dtype).removeprefix("torch."), value)


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """Give a parameter or buffer by name.

    Raises:
        RefusedError: the model has none of that name.
    """
    path, _, leaf = name.rpartition(".")
    module = dict(model.named_modules(remove_duplicate=False)).get(path)
    tables: Mapping[str, Any] = {**module._parameters, **module._buffers} if module else {}
    found: Tensor | None = tables.get(leaf)
    if found is None:
        raise RefusedError(name, "a tensor that the configuration speaks of", "no such tensor")
    return found


def _check(one: Changed, patient: Patient, paths: Mapping[str, Any], name: str) -> None:
    there = tensor_of(patient.model, one.name)
    if there.shape != one.old.shape:
        raise RefusedError(
            one.name,
            f"shape {tuple(one.old.shape)}, as the configuration says",
            str(tuple(there.shape)),
            "mend the configuration before it is changed",
        )
    if one.name.rpartition(".")[0] not in paths and one.name not in paths:
        raise RefusedError(
            f"{name}: {one.name}",
            "only selected tensors to change",
            f"one that must change to {tuple(one.new.shape)} too",
            f"select all that the configuration speaks of: {_wider(one.name, patient, paths)}",
        )


def _wider(name: str, patient: Patient, paths: Mapping[str, nn.Module]) -> str:
    """Give a selector that finds a tensor too: what shares a configuration with the selected."""
    held = {id(vars(module)["config"]) for module in paths.values() if "config" in vars(module)}
    for path, module in patient.model.named_modules():
        if path and name.startswith(f"{path}.") and id(vars(module).get("config")) in held:
            return f"`at: {{path: {path}}}`"
    return "leave `at:` out"


def _unknown(one: Changed, name: str) -> RefusedError:
    return RefusedError(
        f"{name}: {one.name}",
        f"a tensor that {name} can carry to another shape",
        f"{tuple(one.old.shape)}, which must become {tuple(one.new.shape)}",
        "no rule says how; another surgery may",
    )
