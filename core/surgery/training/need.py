"""What a training step needs: bytes of weights, gradients, optimizer and kept activations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surgery.training.prints import local

_UNIT = 2**20


@dataclass
class Count:
    """Count what forwards keep for their backward.

    Attributes:
        weights: where the memory of parameters and buffers begins, which is not counted.
        most: bytes of the forward that kept most.
    """

    weights: frozenset[int] = frozenset()
    most: int = 0
    _now: int = 0
    _kept: set[int] = field(default_factory=set)
    _back: bool = False

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor's memory once, however many operations keep views of it."""
        if self._back:
            self._kept, self._now, self._back = set(), 0, False
        if not tensor.is_meta:
            self._add(tensor.untyped_storage())
        return tensor

    def _add(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        if place not in self.weights and place not in self._kept:
            self._kept.add(place)
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)

    def give(self, tensor: Tensor) -> Tensor:
        """Know that the backward has begun."""
        self._back = True
        return tensor


@dataclass(frozen=True)
class Need:
    """Bytes that one step needs in this process.

    Attributes:
        weights: of parameters and buffers.
        gradients: of what is trained.
        optimizer: of its state.
        activations: kept by one forward for its backward.
        peak: measured on an accelerator; None on a CPU.
        available: memory of the device, None where it is not known.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int | None = None
    available: int | None = None

    @property
    def total(self) -> int:
        """What was measured, or the sum of the parts, which is the least that is needed."""
        parts = self.weights + self.gradients + self.optimizer + self.activations
        return parts if self.peak is None else self.peak

    @property
    def too_much(self) -> bool:
        """Whether the device has less."""
        return self.available is not None and self.total > self.available

    def __str__(self) -> str:
        have = "" if self.available is None else f" of {_mib(self.available)}"
        kind = "at least" if self.peak is None else "at the peak"
        return (
            f"{kind} {_mib(self.total)}{have}: weights {_mib(self.weights)}, gradients "
            f"{_mib(self.gradients)}, optimizer {_mib(self.optimizer)}, activations "
            f"{_mib(self.activations)}"
        )


@contextmanager
def counted(model: nn.Module) -> Iterator[Count]:
    """Count what forwards keep for their backwards; views of one memory count once.

    Args:
        model: its own tensors are not counted.
    """
    own = frozenset(t.untyped_storage().data_ptr() for t in _tensors(model))
    count = Count(own)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with torch.autograd.graph.saved_tensors_hooks(count.keep, count.give):
        yield count


def needed(
    model: nn.Module, optimizer: torch.optim.Optimizer, count: Count, device: torch.device
) -> Need:
    """Give what a step needed that was made just now.

    Args:
        model: what is trained, its gradients still there.
        optimizer: after the step.
        count: what the step's forwards kept.
        device: where it was made.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    state = [v for one in optimizer.state.values() for v in one.values() if isinstance(v, Tensor)]
    on_gpu = device.type == "cuda"
    return Need(
        _bytes(_tensors(model)), _bytes(gradients), _bytes(state), count.most,
        torch.cuda.max_memory_allocated(device) if on_gpu else None,
        torch.cuda.mem_get_info(device)[1] if on_gpu else _memory(),
    )  # fmt: skip


def _tensors(model: nn.Module) -> list[Tensor]:
    """Give this process's part of parameters and buffers."""
    return [local(tensor) for tensor in (*model.parameters(), *model.buffers())]


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _memory() -> int | None:
    """Give the memory of this machine in bytes, where the system says it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _mib(count: int) -> str:
    return f"{count / _UNIT:.1f} MiB" if count < 1024 * _UNIT else f"{count / _UNIT / 1024:.2f} GiB"
