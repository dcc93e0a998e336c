"""What a module with adapters beside it computes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.operate.behaviour import Behaviour
from surgery_plugins.surgeries.lora.adapters import factor
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, Branch
from surgery_plugins.surgeries.lora.arithmetic import delta, norms, rows_index


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
        base: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        out = base
        module = cast("nn.Module", self)
        for _, branch in self.extensions(Branch):
            strength = factor(module, branch)
            if branch.beside and strength:
                out = _add(module, branch, x, base, out, branch.scale * strength)
        return out

    def train(self, mode: bool = True) -> Any:
        """Follow a parent's mode; dropout of adapters follows it too."""
        self.follow_mode(mode)
        return super().train(mode)  # type: ignore[misc]

    def follow_mode(self, mode: bool) -> None:
        """Let the adapters' dropout follow a mode, whatever mode the module is held in."""
        self.__dict__["_lora_mode"] = mode


def _add(
    module: nn.Module, branch: Branch, x: Tensor, base: Tensor, out: Tensor, scale: float
) -> Tensor:
    a, b = module._parameters[branch.a], module._parameters[branch.b]
    assert a is not None
    assert b is not None
    if branch.kind == EMBEDDING:
        added = F.linear(F.embedding(x, a.T, cast("Any", module).padding_idx), b)
        return out + (added * scale).to(out.dtype)
    inner = x.to(a.dtype)
    if branch.dropout:
        mode = module.__dict__.get("_lora_mode", module.training)
        inner = F.dropout(inner, branch.dropout, mode)
    if branch.kind == CONV:
        added = _conv(cast("nn.Conv2d", module), inner, a, b)
        return out + (added * scale).to(out.dtype)
    if branch.m:
        return out + _dora(module, branch, inner, base, scale).to(out.dtype)
    added = (F.linear(F.linear(inner, a), b) * scale).to(out.dtype)
    if branch.ranges:
        return out.index_add(-1, rows_index(branch.ranges, out.device), added)
    return out + added


def _conv(module: nn.Conv2d, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Run the low-rank kernels: the module's own geometry, then one by one."""
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[a.dim()]
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    padding = module.padding if module.padding_mode == "zeros" else 0
    options: Any = {"stride": module.stride, "padding": padding, "dilation": module.dilation}
    hidden = convolve(x, a, None, groups=module.groups, **options)
    return convolve(hidden, b, groups=module.groups)


def _dora(module: nn.Module, branch: Branch, x: Tensor, base: Tensor, scale: float) -> Tensor:
    """Give what DoRA adds to the output of a matrix; the norm takes no gradient.

    arXiv 2402.09353, section 4.3; with dropout, both terms see the dropped input, as in PEFT.
    """
    weight = cast("Tensor", module._parameters[branch.leaf])
    a, b = module._parameters[branch.a], module._parameters[branch.b]
    magnitude = module._parameters[branch.m]
    assert a is not None
    assert b is not None
    assert magnitude is not None
    with torch.no_grad():
        changed = weight.to(a.dtype) + delta(branch, a, b, weight.shape, scale)
        lengths = norms(changed, branch.out_axis)
    stretch = magnitude / lengths
    matrix = weight if branch.out_axis == 0 else weight.T
    bias = getattr(module, "bias", None)
    plain = base if bias is None else base - bias
    if branch.dropout:
        plain = F.linear(x.to(weight.dtype), matrix)
    low = F.linear(F.linear(x, a), b) * scale
    return (stretch - 1) * plain.to(a.dtype) + stretch * low
