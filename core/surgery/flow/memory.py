"""Plan and apply surgeries on a model in memory, and take them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from torch import nn

from surgery.anatomy.stand_in import twin
from surgery.checkpoint.upload import publish_at
from surgery.checkpoint.urls import Folder, folder_at
from surgery.checks.check import Check, demand
from surgery.checks.digest import digest_model
from surgery.errors import RefusedError
from surgery.flow.prove import prove
from surgery.flow.write import Contents, write_output
from surgery.hooks.registry import Registry, registry
from surgery.operate.fill import fill
from surgery.operate.journal import Journal, journal_of, with_trained
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.plan import Plan
from surgery.operate.source import Source
from surgery.operate.step import Step
from surgery.recipe.steps import StepLike, steps_from

Steps: TypeAlias = StepLike | Sequence[StepLike]
"""One step or several, as values or as a recipe writes them."""


class Applied:
    """A patient that was operated on; leaving it as a context manager undoes everything.

    Attributes:
        operation: what was placed.
        checks: the proof.
        source: where the patient came from, or None for a model given from Python.
    """

    def __init__(
        self,
        operation: Operation,
        checks: Iterable[Check] = (),
        base: Mapping[str, Any] | None = None,
        source: Source | None = None,
        without_base: bool = False,
    ) -> None:
        self.operation, self.checks, self.source = operation, tuple(checks), source
        self._base, self._without_base = base, without_base

    @property
    def patient(self) -> Patient:
        """What was operated on."""
        return self.operation.patient

    @property
    def model(self) -> nn.Module:
        """The patient's model."""
        return self.operation.patient.model

    @property
    def plan(self) -> Plan:
        """The exact difference that was made."""
        return self.operation.plan

    @cached_property
    def journal(self) -> Journal:
        """The record that travels with a checkpoint."""
        base = self._base if self._base is not None else self._live_base()
        return with_trained(journal_of(self.plan, base), [*self.plan.trainable, *self._trained()])

    def undo(self) -> None:
        """Take everything back; the patient has its exact bits again.

        Raises:
            RefusedError: a whole model was loaded without its base.
        """
        if self._without_base:
            raise RefusedError(
                "undo", "the base's own tensors", "a whole model that was loaded without them",
                "load it with `base=`, or use `surgery undo`",
            )  # fmt: skip
        self.operation.undo()

    def save(self, folder: str | Path, *, force: bool = False) -> Folder:
        """Write a checkpoint of the changes, and of base tensors that could be trained.

        All other tensors of the base are not stored.

        Args:
            folder: where, a path or a URL; it must not exist.
            force: replace what stands there.

        Raises:
            OutputError: the folder exists or cannot be written.
        """
        target = folder_at(folder)
        with publish_at(target, force=force) as temporary:
            contents = Contents(self.source, over=target)
            demand(write_output(temporary, self.operation, self.journal, contents), str(target))
        return target

    def _live_base(self) -> dict[str, Any]:
        """Recognise a base given from Python by the bits it had before."""
        base = self.operation.transaction.base
        if any(tensor.is_meta for _, tensor, _ in base):
            return {}
        return {"digest": {"tensors": digest_model(base, self._trained())}}

    def _trained(self) -> list[str]:
        """Give the base tensors that take gradients, since training may have changed them, and
        those that already have a training's values.
        """
        names = [name for name in self.plan.trainable if name not in self.plan.slots]
        return list(dict.fromkeys([*names, *self.operation.transaction.overwritten]))

    def __enter__(self) -> Applied:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def plan(
    model: nn.Module | Patient,
    steps: Steps,
    *,
    seed: int = 0,
    inputs: Mapping[str, Any] | None = None,
    plugins: Registry | None = None,
) -> Plan:
    """Plan surgeries on a model; the model is not touched.

    Args:
        model: the model, or a patient.
        steps: what to do.
        seed: seed of everything that is drawn.
        inputs: keyword arguments for one forward; guessed if None.
        plugins: what is installed; found by itself if not given.

    Raises:
        SurgeryError: a step selects nothing, is refused or contradicts another.
    """
    patient = patient_of(model, inputs)
    structure = replace(patient, model=twin(patient.model))
    operation = _operate(structure, steps, seed, plugins or registry())
    operation.undo()  # config and processor are the patient's own
    return operation.plan


def apply(
    model: nn.Module | Patient,
    steps: Steps,
    *,
    seed: int = 0,
    inputs: Mapping[str, Any] | None = None,
    plugins: Registry | None = None,
) -> Applied:
    """Operate on a model in place, and check that everything holds that must.

    Args:
        model: the model, or a patient; on meta, new tensors stay on meta.
        steps: what to do.
        seed: seed of everything that is drawn.
        inputs: keyword arguments for one forward; guessed if None.
        plugins: what is installed; found by itself if not given.

    Returns:
        What was done, with ``plan``, ``journal``, ``checks``, ``undo()`` and ``save()``.

    Raises:
        SurgeryError: a step selects nothing, is refused, contradicts another, or a check fails;
            the model is then as before.
    """
    known = plugins or registry()
    operation = _operate(patient_of(model, inputs), steps, seed, known)
    try:
        fill(operation.transaction.slots, seed)
        checks = prove(operation, families=known.families())
        demand(checks, "surgery.apply")
    except BaseException:
        operation.undo()
        raise
    return Applied(operation, checks)


def patient_of(model: nn.Module | Patient, inputs: Mapping[str, Any] | None) -> Patient:
    """Give the patient that a model from Python is; a patient is given back as it is."""
    if isinstance(model, Patient):
        return model
    given = None if inputs is None else dict(inputs)
    return Patient(model, config=getattr(model, "config", None), inputs=given)


def _operate(patient: Patient, steps: Steps, seed: int, known: Registry) -> Operation:
    return operate(patient, steps_of(steps, known), seed=seed, families=known.families())


def steps_of(steps: Steps, known: Registry) -> tuple[Step, ...]:
    """Give steps as values, whether one or several are given, and in which form.

    Raises:
        SurgeryError: a step has mistakes.
    """
    single = isinstance(steps, Step | Mapping) or not isinstance(steps, Sequence)
    entries: Any = [steps] if single or _is_pair(steps) else steps
    return tuple(steps_from(entries, known))


def _is_pair(steps: Any) -> bool:
    from surgery.anatomy.selector import Selector

    return isinstance(steps, tuple) and len(steps) == 2 and isinstance(steps[1], Selector)
