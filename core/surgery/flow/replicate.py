"""Run a patient under ``nn.DataParallel``, where there are GPUs, and know when that cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from surgery.anatomy.site import Site
from surgery.checks.check import Check, failed, passed, skipped
from surgery.checks.gradients import loss_of, state
from surgery.checks.invariants import identity, tensors_in
from surgery.checks.watch import raised, trying, watched
from surgery.flow.trials import Observation, Trouble
from surgery.operate.family import Violation
from surgery.operate.fill import fill
from surgery.operate.operation import operate
from surgery.operate.patient import Patient
from surgery.operate.step import Step
from surgery.operate.table import named_tensors

MENDED = Version("2.11")
"""First torch whose ``nn.DataParallel`` keeps tensors complex (its pull request 170185)."""

REPLICAS = 2

_NO_GPUS = (
    f"nn.DataParallel makes replicas on GPUs alone, and there are no {REPLICAS} here: on a CPU it "
    "calls the model itself, which shows nothing. No complex tensor would be lost with this torch"
)

ROUNDING = 1e-2
"""By how much outputs of replicas may differ from those of one model, as a share of their length:
another batch size and other kernels round otherwise, TensorFloat-32 coarsest of all."""


@dataclass(frozen=True)
class Job:
    """What is to be run on several replicas.

    Attributes:
        patient: as it is before the steps.
        seen: what one model does after them.
        steps: what to do first.
        sites: the sites of each step.
        seed: seed of everything that is drawn.
    """

    patient: Patient
    seen: Observation
    steps: Sequence[Step] = ()
    sites: Sequence[Sequence[Site]] = ()
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What running on replicas came to.

    Attributes:
        checks: what was looked at.
        trouble: what is wrong, or None.
        skipped: why it was not run, or an empty text.
    """

    checks: tuple[Check, ...] = ()
    trouble: Trouble | None = None
    skipped: str = ""

    @property
    def parts(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


@contextmanager
def done(job: Job) -> Iterator[nn.Module]:
    """Have the steps of a job done for as long as the context lasts."""
    operation = operate(job.patient, job.steps, seed=job.seed, sites=job.sites)
    try:
        fill(operation.transaction.slots, job.seed)
        yield job.patient.model
    finally:
        operation.undo()


def data_parallel(job: Job) -> Outcome:
    """Run two replicas under ``nn.DataParallel``, on a copy of the model; needs GPUs.

    Args:
        job: what to run.
    """
    with done(job) as model:
        lost = complex_lost(model, torch.__version__)
        if lost is not None:
            what = f"expected {lost.wanted}, got {lost.found}"
            return _broken(Trouble("parallel", lost.where, what, lost))
        if torch.cuda.device_count() < REPLICAS:
            return Outcome((skipped("replicas", _NO_GPUS),), None, _NO_GPUS)
        copy = deepcopy(model).to("cuda:0")
        replicas = nn.DataParallel(copy, device_ids=list(range(REPLICAS)))
        batch = {name: _doubled(value) for name, value in job.seen.inputs.items()}
        return compared(copy, replicas, batch, f"{REPLICAS} GPUs")


def _doubled(value: Any) -> Any:
    """Give an input once for each replica: a batch is cut along its first dimension."""
    whole = isinstance(value, Tensor) and value.dim() > 0
    return torch.cat([value] * REPLICAS).to("cuda:0") if whole else value


def complex_lost(model: nn.Module, version: str) -> Violation | None:
    """Name a complex tensor that ``nn.DataParallel`` of some torch gives replicas as a real one.

    Up to torch 2.10 it broadcasts real views of complex tensors and does not turn them back.

    Args:
        model: the model.
        version: of torch.
    """
    if Version(Version(version).base_version) >= MENDED:
        return None
    name = next((name for name, tensor, _ in named_tensors(model) if tensor.is_complex()), None)
    if name is None:
        return None
    found = f"torch {version}, whose nn.DataParallel gives replicas a real view of it"
    return Violation(
        "complex tensors on replicas", name, f"torch {MENDED} or newer", found,
        "use DistributedDataParallel, or upgrade torch",
    )  # fmt: skip


def compared(
    model: nn.Module, replicas: nn.Module, batch: Mapping[str, Any], where: str
) -> Outcome:
    """Compare replicas with the one model that they are made of.

    Args:
        model: the model.
        replicas: what cuts a batch, runs a replica on each part and puts the answers together.
        batch: keyword arguments of a forward, with an item for each replica at least.
        where: where the replicas run, for people.
    """
    with trying(model), watched(model, values=False) as watch:
        try:
            with torch.no_grad():
                alone = list(tensors_in(model(**batch)))
            outputs = replicas(**batch)
            model.zero_grad(set_to_none=True)
            loss = loss_of(outputs)
            if loss is not None:
                torch.autograd.backward(loss)
        except Exception as error:
            found = raised(error, watch)
            return _broken(Trouble("parallel", found.where, found.what))
    together = [tensor.detach() for tensor in tensors_in(outputs)]
    return agreement(alone, together, states_of(model), where)


def states_of(model: nn.Module) -> dict[str, str]:
    """Give what gradient each trainable tensor holds."""
    return {n: state(p.grad) for n, p in model.named_parameters() if p.requires_grad}


def agreement(
    alone: Sequence[Tensor], together: Sequence[Tensor], gradients: Mapping[str, str], where: str
) -> Outcome:
    """Check that replicas answer as one model does, with finite gradients.

    Args:
        alone: outputs of one model.
        together: outputs of the replicas, put together.
        gradients: what the gradient of each trainable tensor is.
        where: where they ran, for people.
    """
    found = identity(alone, together, ROUNDING)
    bad = [name for name, what in gradients.items() if what == "not finite"]
    if found.status != "passed":
        return _broken(Trouble("parallel", "outputs", f"{found.detail} from one model's, {where}"))
    if bad:
        return _broken(Trouble("parallel", bad[0], f"its gradient is not finite, {where}"))
    detail = f"{len(alone)} outputs and {len(gradients)} gradients of two replicas, {where}"
    return Outcome((passed("replicas", detail),))


def _broken(trouble: Trouble) -> Outcome:
    return Outcome((failed("replicas", f"{trouble.where}: {trouble.what}"),), trouble)
