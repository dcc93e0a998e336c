"""Observe one forward as dataflow: which weight meets which data, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from surgery.anatomy.fold import tensors_in
from surgery.anatomy.pretend import pretend
from surgery.anatomy.provenance import Attention, Known, Origin

_EMPTY: frozenset[Any] = frozenset()
_LEARNED, _CONSTANT = frozenset(("learned",)), frozenset(("constant",))


class Trace(TorchFunctionMode):
    """Follow tensors through a forward.

    Attributes:
        table: what is known of each tensor, by id.
        origins: the contractions, in order.
        attentions: the calls of attention, in order.
        norms: names of parameters that scale normalised data.
        read: names of weights read while their module was not running.
    """

    def __init__(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.table: dict[int, Known] = {}
        self.origins: list[Origin] = []
        self.attentions: list[Attention] = []
        self.norms: set[str] = set()
        self.read: set[str] = set()
        self.stack: list[nn.Module] = []
        self.holders: dict[str, list[tuple[nn.Module, str]]] = {}
        for path, module in model.named_modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    self._hold(parameter, module, f"{path}.{leaf}" if path else leaf)
        for name, value in inputs.items():
            for tensor in tensors_in(value):
                self.table[id(tensor)] = Known(tensor, modes=frozenset((name,)))

    def _hold(self, parameter: Tensor, module: nn.Module, name: str) -> None:
        known = self.table.setdefault(id(parameter), Known(parameter, frozenset((name,))))
        (first,) = known.weights
        self.holders.setdefault(first, []).append((module, name))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Observe everything that runs, and which modules are running."""
        before = register_module_forward_pre_hook(lambda m, a: self.stack.append(m))
        after = register_module_forward_hook(lambda m, a, o: self._leave(), always_call=True)
        try:
            with self, torch.no_grad():
                yield
        finally:
            before.remove()
            after.remove()

    def _leave(self) -> None:
        self.stack.pop()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name == "__get__":
            result = func(*args, **kwargs)
            if isinstance(result, Tensor):
                self._pass(func, args, kwargs, result)
            return result
        result = pretend(func, name, args, kwargs)
        handler = HANDLERS.get(name)
        if handler is None or not handler(self, result, args, kwargs):
            self._pass(func, args, kwargs, result)
        return result

    def known(self, value: Any) -> Known | None:
        """Give what is known of a tensor, or None for a constant or another value."""
        return self.table.get(id(value)) if isinstance(value, Tensor) else None

    def keep(self, known: Known) -> Known:
        """Remember what is known of a tensor."""
        self.table[id(known.tensor)] = known
        return known

    def _pass(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Pass provenance on through any other operation: the union of the inputs'."""
        name = func.__name__
        results = (out,) if isinstance(out, Tensor) else out
        if name in _FRESH:
            return
        if name in _STORES:
            results = (args[0],)
        if not isinstance(results, tuple | list):
            return
        values = args[:1] if name in _FORMS else (*args, *kwargs.values())
        seen = [known for value in values for known in self._all(value)]
        if not seen:
            return
        made_args = tuple(map(self._frozen, args))
        made_kwargs = {key: self._frozen(value) for key, value in kwargs.items()}
        joined = union(seen)
        if name in ACTIVATIONS:
            joined["activated"] = True
        for number, result in enumerate(results):
            if isinstance(result, Tensor):
                made = (func, made_args, made_kwargs, number)
                self.keep(Known(result, **joined, made=made))

    def _all(self, value: Any) -> Iterator[Known]:
        if isinstance(value, Tensor):
            known = self.table.get(id(value))
            if known is not None:
                yield known
        elif isinstance(value, tuple | list):
            for item in value:
                yield from self._all(item)

    def _frozen(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.table.get(id(value), value)
        if isinstance(value, tuple | list):
            return type(value)(map(self._frozen, value)) if type(value) in (tuple, list) else value
        return value

    def contract(
        self,
        out: Tensor,
        data: Any,
        weight: Any,
        kind: str = "linear",
        dims: tuple[int, int | None] = (-2, -1),
    ) -> bool:
        """Begin a new origin: data met a weight, whose output and input axes are ``dims``."""
        weights, read = self.known(weight), self.known(data)
        if weights is None or not weights.is_weight:
            return False
        modes = read.modes if read else _CONSTANT
        origin = Origin(
            weights=frozenset(map(self._held_as, weights.weights)),
            stream=bool(read and read.stream),
            inputs=read.origins if read else _EMPTY,
            calls=read.calls if read else _EMPTY,
            glu=read.glu if read else None,
            kind=kind,
            modes=modes or _LEARNED,
            output=out,
            weight=weights.tensor,
            out_dim=dims[0],
            in_dim=dims[1],
            first=bool(read and read.modes and not (read.origins or read.calls or read.stream)),
        )
        for call in origin.calls:
            call.proj.append(origin)
        self.origins.append(origin)
        self._note_reader(origin.weights)
        self.keep(Known(out, origins=frozenset((origin,)), modes=origin.modes, stream=origin.first))
        return True

    def attend(self, out: Tensor, q: Known, k: Known, v: Known) -> bool:
        """Remember a call of attention."""
        call = Attention(q, k, v)
        self.attentions.append(call)
        modes = q.modes | k.modes | v.modes
        self.keep(Known(out, calls=frozenset((call,)), modes=modes))
        return True

    def _held_as(self, name: str) -> str:
        """Give the name under which a running module holds a tied weight."""
        holders = self.holders.get(name, ())
        if len(holders) > 1:
            running = {id(module) for module in self.stack}
            return next((other for module, other in holders if id(module) in running), name)
        return name

    def _note_reader(self, names: frozenset[str]) -> None:
        running = {id(module) for module in self.stack}
        for name in names:
            holders = self.holders.get(name, ())
            if holders and not any(id(module) in running for module, _ in holders):
                self.read.add(name)


def union(seen: list[Known]) -> dict[str, Any]:
    """Give what a tensor made of others inherits from them."""
    if len(seen) == 1:
        one = seen[0]
        return {name: getattr(one, name) for name in _INHERITED}
    joined: dict[str, Any] = {name: getattr(seen[0], name) for name in _INHERITED}
    for other in seen[1:]:
        for name in ("weights", "origins", "calls", "modes"):
            joined[name] = joined[name] | getattr(other, name)
        for name in ("stream", "activated", "scores", "probs", "glu", "scaled"):
            joined[name] = joined[name] or getattr(other, name)
    if joined["modes"]:
        joined["weights"] = _EMPTY
    return joined


_INHERITED = (
    "weights", "origins", "calls", "modes", "stream", "activated", "scores", "probs", "glu",
    "scaled",
)  # fmt: skip


_STORES = {"index_add_", "index_copy_", "masked_scatter_", "scatter_"}
_FRESH = {
    "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor", "empty_like", "zeros_like",
    "ones_like", "full_like", "rand_like", "randn_like",
}  # fmt: skip
"""Functions that take shape and dtype of a tensor, and no value."""

_FORMS = {"view_as", "reshape_as", "expand_as", "type_as"}
"""Functions that take values of their first tensor, and shape or dtype of another."""

ACTIVATIONS = {
    "relu", "relu_", "gelu", "silu", "silu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "hardswish",
    "leaky_relu", "elu", "selu", "celu", "mish", "erf", "softplus", "relu6", "hardtanh",
    "logsigmoid", "prelu", "hardsigmoid", "softsign",
}  # fmt: skip

Handler = Callable[[Trace, Any, tuple[Any, ...], dict[str, Any]], bool]
HANDLERS: dict[str, Handler] = {}
"""What to do after a function other than passing provenance on; True where it is done."""


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for functions of these names."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register
