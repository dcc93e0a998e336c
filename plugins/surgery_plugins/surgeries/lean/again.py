"""Outputs that are made again in the backward pass instead of being kept from the forward pass.

The arithmetic is done by the same code on the same tensors, so that outputs and gradients have
the same bits. As activation checkpointing (`arXiv 1604.06174 <https://arxiv.org/abs/1604.06174>`_)
for operations that cost next to nothing, such as norms and gates; but their outputs are not kept
for others either, such as an adapter that needs the input of its layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from surgery.errors import SurgeryError

Geometry: TypeAlias = "tuple[torch.Size, tuple[int, ...], int | torch.SymInt]"
"""Shape, strides and offset of a tensor in its storage."""


def again(run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute something of which only the inputs are kept for the backward pass.

    Args:
        run: computes it, without chance and without side effects.
        inputs: what it is called with.

    Returns:
        What ``run(*inputs)`` gives.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or inputs[0].is_meta:
        return run(*inputs)
    scope = _SCOPE.get()
    if scope is None:
        return run(*inputs)
    made = _Made(run, inputs)
    result: Tensor = checkpoint(made.run, *inputs, use_reentrant=False, preserve_rng_state=False)
    if isinstance(result, Tensor):
        scope.note(result, made)
    return result


@contextmanager
def open_scope() -> Iterator[Scope]:
    """Open a scope, in which ``again`` says what can be made again."""
    scope = Scope()
    token = _SCOPE.set(scope)
    try:
        yield scope
    finally:
        _SCOPE.reset(token)
        scope.known.clear()


class Scope:
    """Know what can be made again; its outputs are held until the scope is closed."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[_Made, Tensor, int]] = {}

    def note(self, result: Tensor, made: _Made) -> None:
        """Take note of how an output is made.

        Args:
            result: the output; one that shares memory with an input is left alone.
            made: how it is made.
        """
        if _memory(result) not in {_memory(one) for one in made.inputs}:
            self.known[_memory(result)] = made, result, result._version

    def pack(self, tensor: Tensor) -> Tensor | _Kept:
        """Say what autograd is to keep of a tensor: itself, or how it is made."""
        made, result, version = self.known.get(_memory(tensor), (None, tensor, -1))
        if made is None or tensor._version != version or tensor.dtype != result.dtype:
            return tensor
        return _Kept(made, (tensor.shape, tensor.stride(), tensor.storage_offset()))

    @staticmethod
    def unpack(kept: Tensor | _Kept) -> Tensor:
        """Give the tensor."""
        return kept if isinstance(kept, Tensor) else kept.tensor()


_SCOPE: ContextVar[Scope | None] = ContextVar("_SCOPE", default=None)


class _Made:
    """How an output is made; made once for all that wait for it in one backward pass."""

    def __init__(self, compute: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self.compute, self.waiting = compute, 0
        self.inputs = tuple(one.detach() for one in inputs)
        self.versions = self._versions()
        self.autocast = _autocast(inputs[0].device.type)
        self.result: Tensor | None = None

    def run(self, *inputs: Tensor) -> Tensor:
        """Compute the output.

        Raises:
            SurgeryError: an input was written to since.
        """
        if self._versions() != self.versions:
            raise SurgeryError(
                "lean", "inputs that nobody writes to before the backward pass",
                "one that was written to in place", "leave out the layer that does so",
            )  # fmt: skip
        return self.compute(*inputs)

    def make(self) -> Tensor:
        """Give the output once more."""
        if self.result is None:
            with torch.no_grad(), torch.autocast(**self.autocast):
                self.result = self.run(*self.inputs)
        self.waiting -= 1
        result = self.result
        if self.waiting <= 0:
            self.result = None
        return result

    def _versions(self) -> tuple[int, ...]:
        return tuple(one._version for one in self.inputs)


class _Kept:
    """Stand for a tensor that is made again: an output, or a view of one."""

    def __init__(self, made: _Made, geometry: Geometry) -> None:
        self.made, self.geometry = made, geometry
        made.waiting += 1

    def tensor(self) -> Tensor:
        """Give the tensor."""
        return self.made.make().as_strided(*self.geometry)


def _memory(tensor: Tensor) -> int:
    """Identify the memory of a tensor while somebody holds it."""
    return int(tensor.untyped_storage()._cdata)


def _autocast(device: str) -> dict[str, Any]:
    """Give the arguments of an autocast that is as the present one."""
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
    }
