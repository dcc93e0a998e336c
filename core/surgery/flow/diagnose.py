"""Diagnose a recipe: the base, each surgery alone, growing prefixes, and data-parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from surgery.checks.check import FAILED, Check
from surgery.checks.watch import source_line
from surgery.errors import SurgeryError
from surgery.flow.check import Inputs
from surgery.flow.judge import Expected, judge
from surgery.flow.memory import Steps, patient_of, steps_of
from surgery.flow.parallel import PARALLEL
from surgery.flow.prove import prove, rounding_of
from surgery.flow.trials import Kind, Observation, Trial, Trouble, observe
from surgery.hooks.registry import Registry, registry
from surgery.operate.edits import Extend, Place
from surgery.operate.fill import fill
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.step import Step


@dataclass(frozen=True)
class Diagnosis:
    """What all trials came to.

    Attributes:
        trials: in the order in which they were made.
        surgeries: the name of each step, such as ``surgeries[1] lora``.
    """

    trials: tuple[Trial, ...]
    surgeries: tuple[str, ...] = ()

    @property
    def whole(self) -> Trial:
        """The trial of all surgeries together."""
        return [trial for trial in self.trials if trial.kind != "parallel"][-1]

    @property
    def ok(self) -> bool:
        """True where the whole works, and in parallel too where that was tried."""
        parallel = [trial for trial in self.trials if trial.kind == "parallel"]
        return all(trial.status != FAILED for trial in (self.whole, *parallel))

    @property
    def culprit(self) -> Trial | None:
        """The first trial in the trouble that the whole is in, or that it is in when parallel."""
        last = next((t for t in (self.whole, *self.trials) if t.kind in _LAST and t.trouble), None)
        if self.ok or last is None or last.trouble is None:
            return None
        alike = (trial for trial in self.trials if last.trouble.like(trial.trouble))
        return next(alike, last)

    @property
    def innocent(self) -> tuple[str, ...]:
        """The surgeries that alone break nothing that the base does not break."""
        base = self.trials[0].trouble
        alone = [trial for trial in self.trials if trial.kind == "alone" and not trial.skipped]
        clear = [t.name for t in alone if t.trouble is None or t.trouble.like(base)]
        return tuple(name for name in self.surgeries if f"{name} alone" in clear)


_LAST = ("alone", "prefix", "base", "parallel")


def diagnose(
    model: nn.Module | Patient,
    steps: Steps,
    *,
    seed: int = 0,
    inputs: Mapping[str, Any] | None = None,
    asked: Inputs | None = None,
    plugins: Registry | None = None,
    parallel: bool = False,
) -> Diagnosis:
    """Find the first of some surgeries that breaks a model, where, and which contract.

    The model is run in eval mode; after each trial everything is taken back, to the bit.

    Args:
        model: the model with values, or a patient.
        steps: what to do, as for ``apply``.
        seed: seed of everything that is drawn.
        inputs: keyword arguments for one forward; guessed if None.
        asked: inputs that are stated by shape alone.
        plugins: what is installed; found by itself if not given.
        parallel: also run all surgeries on several replicas, where that can be done here.

    Returns:
        The trials, the culprit and who is innocent.

    Raises:
        RecipeError: no input is known and none can be guessed, or one is unknown to the model.
        RefusedError: the model has no values.
    """
    known = plugins or registry()
    patient = patient_of(model, inputs)
    made = steps_of(steps, known)
    clinic = _Clinic(patient, made, seed, known, asked or Inputs())
    trials = list(clinic.trials())
    if parallel:
        trials += clinic.parallel(trials[-1])
    return Diagnosis(tuple(_linked(trials)), tuple(map(_named, made)))


def _linked(trials: Sequence[Trial]) -> Iterator[Trial]:
    for number, trial in enumerate(trials):
        alike = (t.name for t in trials[:number] if trial.trouble and trial.trouble.like(t.trouble))
        yield replace(trial, like=next(alike, ""))


def _named(step: Step) -> str:
    return f"{step.where} {step.surgery.name}"


@dataclass
class _Clinic:
    """Make the trials of one recipe on one patient."""

    patient: Patient
    steps: Sequence[Step]
    seed: int
    known: Registry
    asked: Inputs
    base: Observation | None = None

    def trials(self) -> Iterator[Trial]:
        """Try the base, each surgery alone, and growing prefixes."""
        self.base = observe(self.patient, self.known.families(), self.asked)
        yield Trial("base", "base", *judge(self.base, Expected()))
        for step in self.steps:
            yield self._alone(step)
        for count in range(2, len(self.steps) + 1):
            names = ", ".join(step.surgery.name for step in self.steps[:count])
            yield self._operated(f"first {count}: {names}", "prefix", self.steps[:count])

    def _alone(self, step: Step) -> Trial:
        """Try one surgery; one that needs an earlier one is not at fault."""
        found = self._operated(f"{_named(step)} alone", "alone", [step])
        trouble = found.trouble
        if len(self.steps) == 1 or trouble is None or trouble.breaks != "surgery":
            return found
        why = f"it cannot be done alone: {trouble.where}: {trouble.what}"
        return Trial(found.name, "alone", skipped=why)

    def _operated(self, name: str, kind: Kind, steps: Sequence[Step]) -> Trial:
        rounding = rounding_of(self.patient, steps)
        try:
            operation = operate(
                self.patient, steps, seed=self.seed, families=self.known.families()
            )
        except Exception as error:
            return Trial(name, kind, trouble=_refused(error, steps))
        try:
            return self._examined(name, kind, operation, rounding)
        finally:
            operation.undo()

    def _examined(self, name: str, kind: Kind, operation: Operation, rounding: float) -> Trial:
        try:
            fill(operation.transaction.slots, self.seed)
            own = [check for check in prove(operation) if check.name not in _ELSEWHERE]
        except Exception as error:
            return Trial(name, kind, trouble=_refused(error, [s.step for s in operation.steps]))
        seen = observe(self.patient, self.known.families(), self.asked)
        checks, trouble = judge(seen, self._expected(operation, rounding))
        return Trial(name, kind, (*own, *checks), trouble or _unproved(own, operation))

    def _expected(self, operation: Operation, rounding: float) -> Expected:
        changing = [s.step.surgery for s in operation.steps if s.step.surgery.at_init == "changed"]
        why = f"{changing[0].name} does not promise it" if changing else ""
        plan = operation.plan
        learning = [row.name for row in plan.added if row.trainable]
        learning += [row.name for _, row in plan.flags if row.trainable]
        held = frozenset(_may_be_zero(operation))
        return Expected(self.base, why, rounding, frozenset(learning), held)

    def parallel(self, whole: Trial) -> Iterator[Trial]:
        """Try all surgeries on several replicas, and the base where they break there."""
        for name, replicate in PARALLEL.items():
            found = self._replicated(f"{name}, all surgeries", self.steps, replicate, whole)
            if found.trouble is not None and self.steps:
                yield self._replicated(f"{name}, base", (), replicate, None)
            yield found

    def _replicated(
        self,
        name: str,
        steps: Sequence[Step],
        replicate: Callable[..., tuple[tuple[Check, ...], Trouble | None, str]],
        serial: Trial | None,
    ) -> Trial:
        if serial is not None and serial.trouble is not None:
            why = f"it breaks without replicas already, see {serial.name!r}"
            return Trial(name, "parallel", skipped=why)
        with _placed(self.patient, steps, self.seed, self.known) as operation:
            inputs = self.base.inputs if self.base else {}
        raise NotImplementedError
