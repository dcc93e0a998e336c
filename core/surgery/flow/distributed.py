"""Run a patient under ``DistributedDataParallel`` in two processes on the CPU."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from surgery.checks.check import failed, skipped
from surgery.checks.digest import digest_of
from surgery.checks.gradients import loss_of, trainable
from surgery.checks.invariants import tensors_in
from surgery.checks.watch import Raised, raised, told, trying, watched
from surgery.flow.replicate import Job, Outcome, agreement, done, states_of
from surgery.flow.trials import Trouble

RANKS = 2
WAIT = timedelta(seconds=60)
"""How long one process waits for the other."""

STEPS = 2
"""Forwards and backwards: a gradient that did not come is noticed at the second."""

Report: TypeAlias = tuple[bytes, dict[str, str], dict[str, str]]
"""Outputs as a pickle, states of gradients, and digests of gradients, of one process."""


def distributed(job: Job) -> Outcome:
    """Run two processes over gloo, each with the same inputs, and compare them with one model.

    Args:
        job: what to run; its patient and steps are sent to the processes.
    """
    if any(tensor.device.type != "cpu" for tensor in job.patient.model.parameters()):
        return _not_run("the model is not on the CPU")
    if not job.seen.gradients:
        return _not_run("nothing is trainable, and DistributedDataParallel refuses such a model")
    try:
        payload = pickle.dumps((job, torch.get_num_threads()))
    except Exception as error:
        return _not_run(f"the patient cannot be sent to another process: {told(error)}")
    return _compared(job, payload)


def _not_run(why: str) -> Outcome:
    return Outcome((skipped("replicas", why),), None, why)


def _compared(job: Job, payload: bytes) -> Outcome:
    try:
        found = _processes(payload)
    except BrokenProcessPool as error:
        return _not_run(f"a process ended early ({error}); does the program guard its main part?")
    except Exception as error:
        return _broken(Trouble("parallel", "a process", told(error)))
    lost = next((one for one in found if isinstance(one, str)), None)
    if lost is not None:
        return _not_run(f"the patient cannot be rebuilt in another process: {lost}")
    wrong = next((one for one in found if isinstance(one, Raised)), None)
    if wrong is not None:
        return _broken(Trouble("parallel", wrong.where, wrong.what))
    reports = [one for one in found if not isinstance(one, Raised | str)]
    first, second = (report[2] for report in reports)
    apart = [name for name in first if first[name] != second[name]]
    if apart:
        return _broken(Trouble("parallel", apart[0], "its gradient differs between processes"))
    outputs: list[Tensor] = pickle.loads(reports[0][0])
    return agreement(job.seen.outputs, outputs, reports[0][1], f"{RANKS} processes on gloo")


def _broken(trouble: Trouble) -> Outcome:
    return Outcome((failed("replicas", f"{trouble.where}: {trouble.what}"),), trouble)


def _processes(payload: bytes) -> list[Report | Raised | str]:
    """Run the processes and give what each found.

    They begin anew instead of being forked: threads of this process may hold locks.
    """
    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(RANKS, mp_context=get_context("spawn")) as pool,
    ):
        meeting = (Path(folder) / "meeting").as_uri()
        jobs = [pool.submit(_rank, rank, payload, meeting) for rank in range(RANKS)]
        return [job.result() for job in jobs]


def _rank(rank: int, payload: bytes, meeting: str) -> Report | Raised | str:
    """Be one of the processes; where the job cannot be unpacked here, say why."""
    try:
        job, threads = pickle.loads(payload)
    except Exception as error:
        return told(error)
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS, timeout=WAIT)
    try:
        with done(job) as model:
            return _train(model, job.seen.inputs)
    finally:
        dist.destroy_process_group()


def _train(model: nn.Module, inputs: Any) -> Report | Raised:
    with trying(model), watched(model, values=False) as watch:
        try:
            replica = DistributedDataParallel(model)
            for _ in range(STEPS):
                model.zero_grad(set_to_none=True)
                outputs = replica(**inputs)
                loss = loss_of(outputs)
                if loss is not None:
                    torch.autograd.backward(loss)
        except Exception as error:
            return raised(error, watch)
    plain = [tensor.detach().clone() for tensor in tensors_in(outputs)]
    digests = {n: digest_of(p.grad) for n, p in trainable(model).items() if p.grad is not None}
    return pickle.dumps(plain), states_of(model), digests
