"""Find gated MLPs: modules that compute ``down(act(gate(x)) * up(x))`` and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.extended import plain_class
from surgery_plugins.surgeries.lean.runtime import Gate

_IN, _INNER = 3, 5


def gate_of(module: nn.Module) -> Gate | None:
    """Say how a module is a gated MLP, or None where it is none.

    What it computes is measured: its own forward, with small matrices in the place of its own,
    must give the bits of the formula.
    """
    if len(module._modules) != 4 or module._parameters or module._buffers:
        return None
    linear = [name for name, child in module._modules.items() if _is_matrix(child)]
    others = [name for name, child in module._modules.items() if not _is_matrix(child)]
    if len(others) != 1 or next(module._modules[others[0]].parameters(), None) is not None:  # type: ignore[union-attr]
        return None
    found = (Gate(g, u, others[0], d) for g, u, d in permutations(linear))
    return next((one for one in found if _computes(module, one)), None)


def _is_matrix(child: nn.Module | None) -> bool:
    return isinstance(child, nn.Linear)


def _computes(module: nn.Module, names: Gate) -> bool:
    """Tell whether a module computes the formula with children of these names."""
    small = dict(_small(module, names))
    shell: Any = object.__new__(plain_class(module))
    shell.__dict__.update(vars(module), _modules=small)
    x = torch.linspace(-2, 2, 2 * _IN).view(1, 2, _IN)
    try:
        with torch.no_grad():
            found = shell(x)
            gate, up = small[names.gate](x), small[names.up](x)
            wanted = small[names.down](small[names.act](gate) * up)
    except Exception:
        return False
    return isinstance(found, Tensor) and torch.equal(found, wanted)


def _small(module: nn.Module, names: Gate) -> Iterator[tuple[str, nn.Module]]:
    """Give small children in the place of a module's own."""
    generator = torch.Generator().manual_seed(0)
    for name, child in module._modules.items():
        if not _is_matrix(child):
            assert child is not None
            yield name, child
            continue
        shape = (_IN, _INNER) if name == names.down else (_INNER, _IN)
        made = nn.Linear(shape[1], shape[0], bias=False)
        made.weight = nn.Parameter(torch.randn(shape, generator=generator))
        yield name, made
