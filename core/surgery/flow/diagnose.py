"""Diagnose a recipe: the base, each surgery alone, growing prefixes, and on several replicas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from surgery.checks.check import FAILED
from surgery.checks.watch import told
from surgery.errors import RefusedError, SurgeryError
from surgery.flow.check import Inputs
from surgery.flow.distributed import distributed
from surgery.flow.expect import expected_of
from surgery.flow.judge import Expected, judge
from surgery.flow.memory import Steps, patient_of, steps_of
from surgery.flow.prove import prove, rounding_of
from surgery.flow.recipe import source_of_recipe
from surgery.flow.replicate import Job, data_parallel
from surgery.flow.run import Report
from surgery.flow.trials import Observation, Trial, Trouble, observe
from surgery.hooks.registry import Registry, registry
from surgery.operate.fill import fill
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.operate.step import Step
from surgery.recipe.recipe import Recipe

_ELSEWHERE = ("plan equals model", "contracts")
"""Checks of the proof that a trial makes itself, or that need a plan on meta."""


@dataclass(frozen=True)
class Diagnosis:
    """What all trials came to.

    Attributes:
        trials: in the order in which they were made.
    """

    trials: tuple[Trial, ...]

    @property
    def whole(self) -> Trial:
        """The trial of all surgeries together, without replicas."""
        return [trial for trial in self.trials if trial.kind != "parallel"][-1]

    @property
    def ok(self) -> bool:
        """True where the whole works, and on replicas too where that was tried."""
        return not self._wrong

    @property
    def culprit(self) -> Trial | None:
        """The first trial that is in the trouble that the whole is in; None where all is well."""
        wrong = self._wrong[0].trouble if self._wrong else None
        return next((t for t in self.trials if wrong and wrong.like(t.trouble)), None)

    @property
    def _wrong(self) -> list[Trial]:
        parallel = [trial for trial in self.trials if trial.kind == "parallel"]
        return [trial for trial in (self.whole, *parallel) if trial.status == FAILED]

    @property
    def innocent(self) -> tuple[str, ...]:
        """The surgeries that alone break nothing that the base does not break."""
        base = self.trials[0].trouble
        alone = [trial for trial in self.trials if trial.kind == "alone" and not trial.skipped]
        return tuple(t.surgery for t in alone if t.trouble is None or t.trouble.like(base))


def diagnose(
    model: nn.Module | Patient,
    steps: Steps,
    *,
    seed: int = 0,
    inputs: Mapping[str, Any] | Inputs | None = None,
    plugins: Registry | None = None,
    parallel: bool = False,
    report: Report = str,
) -> Diagnosis:
    """Find the first of some surgeries that breaks a model, where, and which contract.

    The model is run in eval mode; after each trial everything is taken back, to the bit.

    Args:
        model: the model with values, or a patient.
        steps: what to do, as for ``apply``.
        seed: seed of everything that is drawn.
        inputs: keyword arguments for one forward, or their shapes; what is not given is guessed.
        plugins: what is installed; found by itself if not given.
        parallel: also run all surgeries on several replicas, where that can be done here.
        report: called with the name of each trial before it is made.

    Returns:
        The trials, the first that is at fault and the surgeries that are not.

    Raises:
        RecipeError: no input is known and none can be guessed, or one is unknown to the model.
        RefusedError: the model has no values.
    """
    asked = inputs if isinstance(inputs, Inputs) else Inputs()
    given = None if isinstance(inputs, Inputs) else inputs
    known, patient = plugins or registry(), patient_of(model, given)
    if any(tensor.is_meta for tensor in patient.model.parameters()):
        raise RefusedError("diagnose", "a model with values", "one on meta", "load its weights")
    clinic = _Clinic(patient, steps_of(steps, known), seed, known, asked, report)
    trials = list(clinic.trials())
    if parallel:
        trials += clinic.replicated(trials[-1])
    return Diagnosis(tuple(_linked(trials)))


def diagnose_recipe(
    recipe: Recipe,
    known: Registry,
    asked: Inputs | None = None,
    *,
    random: bool = False,
    parallel: bool = False,
    report: Report = str,
) -> Diagnosis:
    """Build the patient of a recipe and diagnose its surgeries.

    Args:
        recipe: what to do, and with which inputs to check it.
        known: what the plugins offer.
        asked: inputs that go before those of the recipe.
        random: draw the weights instead of reading them.
        parallel: also run all surgeries on several replicas, where that can be done here.
        report: called with the name of each trial before it is made.

    Raises:
        SurgeryError: the patient cannot be built, or an input is unknown.
    """
    given, source = asked or Inputs(), source_of_recipe(recipe)
    stated = recipe.check.stated() if recipe.check else {}
    patient = _drawn(source) if random else source.load()
    return diagnose(
        patient,
        recipe.steps,
        seed=recipe.seed,
        inputs=Inputs({**stated, **given.stated}, given.image),
        plugins=known,
        parallel=parallel,
        report=report,
    )


def _drawn(source: Source) -> Patient:
    """Build a patient whose weights are drawn; tokenizer and processor are its own."""
    model = source.with_numbers({}).load().model
    return replace(source.build(), model=model, config=getattr(model, "config", None))


def _linked(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Name with each failed trial the first that is in the same trouble."""
    for number, trial in enumerate(trials):
        alike = (t.name for t in trials[:number] if trial.trouble and trial.trouble.like(t.trouble))
        yield replace(trial, like=next(alike, ""))


@dataclass
class _Clinic:
    """Make the trials of one recipe on one patient."""

    patient: Patient
    steps: Sequence[Step]
    seed: int
    known: Registry
    asked: Inputs
    report: Report
    base: Observation | None = None

    def trials(self) -> Iterator[Trial]:
        """Try the base, each surgery alone, and growing prefixes."""
        self.report("base")
        self.base = self._observe()
        checks, trouble = judge(self.base, Expected())
        yield Trial("base", "base", checks=checks, trouble=trouble)
        yield from map(self._alone, self.steps)
        for count in range(2, len(self.steps) + 1):
            names = ", ".join(step.surgery.name for step in self.steps[:count])
            yield self._tried(Trial(f"first {count}: {names}", "prefix"), self.steps[:count])

    def _observe(self) -> Observation:
        return observe(self.patient, self.known.families(), self.asked)

    def _alone(self, step: Step) -> Trial:
        """Try one surgery; where there are others, it may need an earlier one."""
        name = f"{step.where.rpartition(': ')[2]} {step.surgery.name}"
        found = self._tried(Trial(f"{name} alone", "alone", name), [step])
        trouble = found.trouble
        if len(self.steps) == 1 or trouble is None or trouble.breaks != "surgery":
            return found
        why = f"it cannot be done alone: {trouble.where}: {trouble.what}"
        return replace(found, checks=(), trouble=None, skipped=why)

    def _tried(self, trial: Trial, steps: Sequence[Step]) -> Trial:
        self.report(trial.name)
        rounding = rounding_of(self.patient, steps)
        try:
            with self._done(steps) as operation:
                own = [check for check in prove(operation) if check.name not in _ELSEWHERE]
                bad = next((check for check in own if check.status == FAILED), None)
                seen = self._observe()
                checks, trouble = judge(seen, expected_of(operation, self.base, rounding))
        except _RefusalError as refusal:
            return replace(trial, trouble=refusal.trouble)
        if bad is not None and trouble is None:
            trouble = Trouble("surgery", steps[-1].where, f"{bad.name}: {bad.detail}")
        return replace(trial, checks=(*own, *checks), trouble=trouble)

    @contextmanager
    def _done(self, steps: Sequence[Step]) -> Iterator[Operation]:
        """Have steps done for as long as the context lasts.

        Raises:
            _RefusalError: they cannot be done.
        """
        try:
            operation = operate(self.patient, steps, seed=self.seed, families=self.known.families())
        except Exception as error:
            raise _RefusalError(error, steps) from error
        try:
            try:
                fill(operation.transaction.slots, self.seed)
            except Exception as error:
                raise _RefusalError(error, steps) from error
            yield operation
        finally:
            operation.undo()

    def replicated(self, whole: Trial) -> Iterator[Trial]:
        """Try all surgeries on replicas; where they break there, the base comes first."""
        for name, run in {"nn.DataParallel": data_parallel, "DDP, gloo": distributed}.items():
            trial = Trial(f"{name}: all surgeries", "parallel")
            if whole.trouble is not None:
                yield replace(trial, skipped="it breaks without replicas already")
                continue
            self.report(trial.name)
            found = run(self._job())
            if found.trouble is not None and self.base is not None:
                base = run(Job(self.patient, self.base))
                yield replace(trial, name=f"{name}: base", **base.parts)
            yield replace(trial, **found.parts)

    def _job(self) -> Job:
        with self._done(self.steps) as operation:
            sites = tuple(step.sites for step in operation.steps)
            seen = self._observe()
        return Job(self.patient, seen, tuple(self.steps), sites, self.seed)


class _RefusalError(Exception):
    """Carry the trouble of surgeries that cannot be done."""

    def __init__(self, error: Exception, steps: Sequence[Step]) -> None:
        known = isinstance(error, SurgeryError)
        where = error.where if isinstance(error, SurgeryError) else steps[-1].where
        self.trouble = Trouble("surgery", where, str(error) if known else told(error))
        super().__init__(str(error))
