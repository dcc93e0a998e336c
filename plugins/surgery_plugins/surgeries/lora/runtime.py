"""What a module with adapters beside it computes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.operate.behaviour import Behaviour
from surgery_plugins.surgeries.lora.arithmetic import factors_of, rows_index, selected, stretch
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, LINEAR, Branch
from surgery_plugins.surgeries.lora.fused import can_fuse, fused_linear

MODE = "_lora_mode"
"""Attribute of a module held in eval mode: the mode that its parent asked for."""


class LoraBeside(Behaviour):
    """Add the adapters' outputs to the module's own."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the module and its adapters.

        Args:
            x: the module's input; token ids for an embedding.
            args: passed on.
            kwargs: passed on.

        Returns:
            The module's output plus ``scale * B(A(x))`` of each adapter, in the output's dtype.
        """
        module = cast("nn.Module", self)
        branches = [b for _, b in self.extensions(Branch) if b.beside and b.strength]
        if len(branches) == 1 and not args and not kwargs and _fits(module, branches[0], x):
            (one,) = branches
            table: dict[str, Any] = module._parameters
            factors = table[one.a], table[one.b]
            return fused_linear(x, table["weight"], table.get("bias"), *factors, one.strength)
        base: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        out = base
        for branch in branches:
            added = _added(module, branch, x, base)
            out = _into(branch, out, added.to(out.dtype))
        return out

    def train(self, mode: bool = True) -> Any:
        """Follow a parent's mode, and the adapters' dropout with it."""
        self.__dict__.pop(MODE, None)
        return super().train(mode)  # type: ignore[misc]

    def follow_mode(self, mode: bool) -> None:
        """Let the adapters' dropout follow a mode, although the module is held in eval mode."""
        self.__dict__[MODE] = mode


def _fits(module: Any, branch: Branch, x: Tensor) -> bool:
    """Tell whether a module is a linear layer that can run with its adapter as one function."""
    plain = branch.kind == LINEAR and not branch.m and not branch.ranges and branch.out_axis == 0
    if not (branch.fused and plain and _is_linear(type(module))) or _drops(module, branch):
        return False
    return can_fuse(x, module._parameters.get("weight"))


def _drops(module: Any, branch: Branch) -> bool:
    return bool(branch.dropout > 0 and module.__dict__.get(MODE, module.training))


def _is_linear(cls: type) -> bool:
    """Tell whether all that a class runs besides the adapters is the forward of ``Linear``.

    On the weight that is stored: a class that computes one, as parametrizations do, runs more.
    """
    known = _LINEAR.get(cls)
    if known is None:
        after = cls.__mro__[cls.__mro__.index(LoraBeside) + 1 :]
        before = cls.__mro__[: cls.__mro__.index(LoraBeside)]
        runs = next(one for one in after if "forward" in one.__dict__)
        more = any("forward" in one.__dict__ for one in before) or hasattr(cls, "weight")
        known = runs is nn.Linear and not more
        _LINEAR[cls] = known
    return known


_LINEAR: dict[type, bool] = {}


def _added(module: Any, branch: Branch, x: Tensor, base: Tensor) -> Tensor:
    """Give what an adapter adds to its rows of the output."""
    a, b, m = factors_of(branch, module)
    dropped = _drops(module, branch)
    inner = x if branch.kind == EMBEDDING else x.to(a.dtype)
    if dropped:
        inner = F.dropout(inner, branch.dropout)
    low = _low_rank(module, branch, inner, a, b) * branch.strength
    if m is None:
        return low
    weight = module._parameters[branch.leaf]
    by = stretch(branch, a, b, m, weight)
    by = by.view(-1, *(1,) * (-1 - _channels(branch, weight)))
    plain = (
        _again(module, branch, inner, weight) if dropped else _without_bias(module, branch, base)
    )
    return (by - 1) * plain.to(low.dtype) + by * low


def _low_rank(module: Any, branch: Branch, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if branch.kind == EMBEDDING:
        return F.linear(F.embedding(x, a.T, module.padding_idx), b)
    if branch.kind == CONV:
        run = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[a.dim()]
        return run(module._conv_forward(x, a, None), b, groups=module.groups)
    return F.linear(F.linear(x, a), b)


def _again(module: Any, branch: Branch, x: Tensor, weight: Tensor) -> Tensor:
    """Run the adapted rows of the base, without bias, on an input with dropout.

    DoRA's magnitudes see the dropped input too, as in PEFT.
    """
    weight = selected(branch, weight, branch.out_axis).to(x.dtype)
    if branch.kind == CONV:
        return cast("Tensor", module._conv_forward(x, weight, None))
    return F.linear(x, weight if branch.out_axis == 0 else weight.T)


def _without_bias(module: Any, branch: Branch, base: Tensor) -> Tensor:
    """Give the adapted rows of the base's output, without bias."""
    axis = _channels(branch, module._parameters[branch.leaf])
    rows = selected(branch, base, axis)
    bias = module._parameters.get("bias")
    if bias is None:
        return rows
    return rows - selected(branch, bias, 0).view(-1, *(1,) * (-1 - axis))


def _channels(branch: Branch, weight: Tensor) -> int:
    """Give the axis of a module's output that holds the weight's output rows, from the end."""
    return 1 - weight.dim() if branch.kind == CONV else -1


def _into(branch: Branch, out: Tensor, added: Tensor) -> Tensor:
    """Add to the adapter's rows; all others keep every bit."""
    if not branch.ranges:
        return out + added
    return torch.index_add(out, -1, rows_index(branch.ranges, out.device), added)
