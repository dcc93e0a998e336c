"""Find gated MLPs: modules that compute ``down(act(gate(x)) * up(x))`` and nothing else."""

from __future__ import annotations

from functools import cache
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
    children = dict(module.named_children())
    if len(module._modules) != 4 or len(children) != 4 or module._parameters or module._buffers:
        return None
    linear = [name for name, child in children.items() if isinstance(child, nn.Linear)]
    if len(linear) != 3:
        return None
    (act,) = children.keys() - set(linear)
    if next(children[act].parameters(), None) is not None:
        return None
    found = (Gate(gate, up, act, down) for gate, up, down in permutations(linear))
    return next((one for one in found if _computes(module, one)), None)


def _computes(module: nn.Module, names: Gate) -> bool:
    """Tell whether a module computes the formula with children of these names."""
    gate, up, down = _matrices()
    act: Any = module._modules[names.act]
    children = {names.gate: gate, names.up: up, names.act: act, names.down: down}
    shell: Any = object.__new__(plain_class(module))
    shell.__dict__.update(vars(module), _modules=children)
    x = torch.linspace(-2, 2, 2 * _IN).view(1, 2, _IN)
    try:
        with torch.no_grad():
            found = shell(x)
            wanted = down(act(gate(x)) * up(x))
    except Exception:
        return False
    return isinstance(found, Tensor) and torch.equal(found, wanted)


@cache
def _matrices() -> tuple[nn.Linear, ...]:
    """Give small matrices for gate, up and down, without drawing from torch's own generator."""
    generator, made = torch.Generator().manual_seed(0), []
    for shape in ((_INNER, _IN), (_INNER, _IN), (_IN, _INNER)):
        one = nn.Linear(shape[1], shape[0], bias=False, device="meta")
        one.weight = nn.Parameter(torch.randn(shape, generator=generator))
        made.append(one)
    return tuple(made)
