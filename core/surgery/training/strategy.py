"""How processes work together: alone, DDP, or FSDP2. The loop never starts a process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from surgery.errors import RefusedError
from surgery.operate.objective import Batch, Objective, Step


class Trainee(nn.Module):
    """Hold model and objective, so that all that a step runs is inside one wrapped forward.

    Args:
        model: the patient's model.
        objective: gives the loss.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch) -> Step:
        """Give the loss of a batch."""
        return self._objective.step(self.model, batch)


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: number of this one.
        size: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def total(self, value: float) -> float:
        """Add a number over all processes."""
        if self.size == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64, device=self._reducing)
        dist.all_reduce(summed)
        return float(summed)

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set in any process."""
        return self.total(float(flag)) > 0

    def gathered(self, value: Any) -> dict[str, Any]:
        """Give a value of every process, by rank."""
        if self.size == 1:
            return {"0": value}
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return {str(rank): one for rank, one in enumerate(found)}

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @property
    def _reducing(self) -> torch.device:
        return self.device if self.device.type == "cuda" else torch.device("cpu")


def join_world() -> World:
    """Join the process group that a launcher describes, unless there is one already."""
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), device)
    return World(device=device)


@dataclass(frozen=True)
class Wrapped:
    """A trainee under a strategy.

    Attributes:
        name: ``none``, ``ddp`` or ``fsdp2``.
        module: what is called.
        trainee: the trainee itself.
        world: the processes.
    """

    name: str
    module: nn.Module
    trainee: Trainee
    world: World

    def quiet(self, last: bool) -> AbstractContextManager[Any]:
        """Keep gradients to this process until the last forward of a step."""
        if self.name == "ddp" and not last:
            return self.module.no_sync()  # type: ignore[no-any-return,operator]
        if self.name == "fsdp2":
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()


def wrap(
    model: nn.Module,
    objective: Objective,
    name: str,
    world: World,
    units: Iterable[nn.Module],
    *,
    offload: bool = False,
) -> Wrapped:
    """Put a model under a strategy; surgeries, flags and dtypes are done by now.

    Args:
        model: the patient's model, on its device.
        objective: gives the loss.
        name: ``auto``, ``none``, ``ddp`` or ``fsdp2``.
        world: the processes.
        units: the repeated layers, each a unit that FSDP2 gathers at a time.
        offload: let what FSDP2 shards wait in main memory.

    Raises:
        RefusedError: the strategy does not fit the processes, or the model is wrapped already.
    """
    chosen = ("ddp" if world.size > 1 else "none") if name == "auto" else name
    _check(model, chosen, world, offload)
    trainee = Trainee(model, objective)
    if chosen == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        _leave_complex(trainee)
        ids = [world.device.index] if world.device.type == "cuda" else None
        return Wrapped(chosen, DistributedDataParallel(trainee, device_ids=ids), trainee, world)
    if chosen == "fsdp2":
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        policy = CPUOffloadPolicy() if offload else OffloadPolicy()
        for unit in units:
            fully_shard(unit, offload_policy=policy)
        fully_shard(trainee, offload_policy=policy)
    return Wrapped(chosen, trainee, trainee, world)


def _check(model: nn.Module, chosen: str, world: World, offload: bool) -> None:
    if offload and world.device.type == "cpu":
        raise RefusedError(
            "train.offload", "an accelerator that main memory is beside", "only a processor",
            "leave `offload:` out; without an accelerator all is in main memory",
        )  # fmt: skip
    if isinstance(model, nn.DataParallel):
        raise RefusedError(
            "train", "a model of its own", "one under nn.DataParallel, which copies modules in "
            "threads, drops what surgeries added and turns complex tables real",
            "start several processes with torchrun; strategy ddp is then chosen by itself",
        )  # fmt: skip
    if chosen == "none" and world.size > 1:
        raise RefusedError("train.strategy", "ddp or fsdp2", f"none with {world.size} processes")
    if chosen != "none" and not dist.is_initialized():
        raise RefusedError(
            "train.strategy", "processes of a launcher", f"{chosen} in one process alone",
            "run: torchrun --nproc-per-node 2 -m surgery train RECIPE",
        )  # fmt: skip


def _leave_complex(trainee: nn.Module) -> None:
    """Keep complex buffers out of DDP's broadcast, which gloo cannot do; they are computed."""
    names = [name for name, buffer in trainee.named_buffers() if buffer.is_complex()]
    ignored = [*getattr(trainee, "_ddp_params_and_buffers_to_ignore", []), *names]
    trainee._ddp_params_and_buffers_to_ignore = ignored  # type: ignore[assignment]


def moved(value: Any, device: torch.device) -> Any:
    """Move the tensors of nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device) for item in value)
    return value


def recompute(units: Iterable[nn.Module]) -> None:
    """Have layers keep their inputs alone, and compute the rest again in the backward.

    The form that needs no input to take gradients, as that of a frozen model does not.
    """
    from torch.utils.checkpoint import checkpoint

    for unit in units:
        forward = unit.forward
        unit.forward = _again(forward, checkpoint)  # type: ignore[method-assign]


def _again(forward: Any, checkpoint: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
