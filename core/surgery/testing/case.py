"""A case: surgeries on a patient, to be held against the laws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from surgery.anatomy.inputs import real_inputs
from surgery.checks.digest import digest_of
from surgery.checks.invariants import run
from surgery.errors import SurgeryError
from surgery.flow.memory import Applied, Steps, apply, steps_of
from surgery.hooks.registry import Registry
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.operate.step import Step


class CannotError(Exception):
    """Say that surgeries cannot be done on a patient, so that laws say nothing of them."""


@dataclass(frozen=True)
class Case:
    """Hold what a law is about.

    Attributes:
        source: where fresh patients come from.
        steps: what is done to each.
        known: what the plugins offer, the source among it.
        seed: seed of everything that is drawn.
        device: where patients are operated on.
    """

    source: Source
    steps: tuple[Step, ...]
    known: Registry
    seed: int = 0
    device: str = "cpu"

    def patient(self) -> Patient:
        """Give a fresh patient on the device, with its weights unless that is ``meta``."""
        if self.device == "meta":
            return self.source.build()
        found = self.source.load()
        found.model.to(self.device)
        given = {name: _moved(value, self.device) for name, value in (found.inputs or {}).items()}
        patient = replace(found, inputs=given or None)
        answers(patient)  # what a library notes on its modules at their first forward is no trace
        return patient

    def apply(self, patient: Patient, steps: Sequence[Step] | None = None) -> Applied:
        """Operate on a patient, with the case's steps or with others.

        Raises:
            CannotError: it is refused.
        """
        done = self.steps if steps is None else steps
        try:
            return apply(patient, tuple(done), seed=self.seed, plugins=self.known)
        except SurgeryError as error:
            raise CannotError(str(error)) from error

    @contextmanager
    def applied(self, steps: Sequence[Step] | None = None) -> Iterator[Applied]:
        """Operate on a fresh patient for as long as the context lasts.

        Raises:
            CannotError: it is refused.
        """
        with self.apply(self.patient(), steps) as done:
            yield done


def _moved(value: object, device: str) -> object:
    return value.to(device) if isinstance(value, Tensor) else value


def case_of(
    source: Source, steps: Steps, known: Registry, seed: int = 0, device: str = "cpu"
) -> Case:
    """Make a case from steps as values, or as a recipe writes them.

    Args:
        source: where fresh patients come from.
        steps: what is done to each.
        known: what the plugins offer, the source among it.
        seed: seed of everything that is drawn.
        device: where patients are operated on; ``meta`` for the structure alone.

    Raises:
        SurgeryError: a step has mistakes.
    """
    return Case(source, steps_of(steps, known), known, seed, device)


def stir(model: nn.Module, but: Sequence[str] = ()) -> list[str]:
    """Change every trainable tensor a little, as training would, the same way each time.

    Args:
        model: changed in place.
        but: names of tensors that stay.

    Returns:
        Names of the tensors that were changed.
    """
    found = [(n, p) for n, p in model.named_parameters() if p.requires_grad and n not in but]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in found:
            noise = torch.randn(parameter.shape, generator=generator) / 8
            parameter.add_(noise.to(parameter.device, parameter.dtype))
    return [name for name, _ in found]


def answers(patient: Patient) -> list[str]:
    """Give digests of the outputs of one forward; nothing where it breaks.

    A surgery may leave a model that does not run, as a cast of one part does.
    """
    try:
        inputs = real_inputs(patient.model, patient.inputs)
        return [digest_of(tensor) for tensor in run(patient.model, inputs)]
    except Exception:
        return []
