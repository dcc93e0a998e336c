"""Rehearse one forward on meta: does it run, and in which module does it break off?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from surgery.anatomy.agree import disagreement
from surgery.anatomy.fold import Fold
from surgery.anatomy.pretend import pretend
from surgery.anatomy.stand_in import untouched

Shapes = Mapping[str, str]
"""Shape and dtype by name, such as ``1 x 3 x 224 x 224 float32``."""


@dataclass(frozen=True)
class Rehearsal:
    """What a forward on meta came to.

    Attributes:
        inputs: what it was given.
        outputs: what it gave; empty where it broke off.
        where: path of the innermost module that was running when it broke off.
        given: the shapes that this module was called with.
        failure: why it broke off, in one line; empty where it ran through.
        done: how many calls of modules had ended by then.
        unwritten: True where the model has no forward of its own, only other methods.
    """

    inputs: Shapes
    outputs: Shapes = field(default_factory=dict)
    where: str = ""
    given: tuple[str, ...] = ()
    failure: str = ""
    done: int = 0
    unwritten: bool = False


def rehearse(model: nn.Module, inputs: Mapping[str, Any], *, fold: bool = True) -> Rehearsal:
    """Run one forward of a model that is on meta; extensions run too, and no value is computed.

    Args:
        model: the model, all of its tensors on meta; left as it was.
        inputs: keyword arguments; tensors are put on meta.
        fold: False to run every layer, even those that are like one that ran.
    """
    inputs = {name: to_meta(value) for name, value in inputs.items()}
    told, running, folded = shapes(inputs), _Running(model), Fold(model)
    try:
        with folded.over() if fold else nullcontext(), running.watched(), _Pretending():
            outputs = model(**inputs)
    except Exception as error:
        if folded.skipped:
            return rehearse(model, inputs, fold=False)
        line = " ".join(str(error).split()) or "no message"
        return Rehearsal(
            told,
            where=running.path,
            given=running.given,
            failure=f"{type(error).__name__}: {line[:300]}",
            done=running.done,
            unwritten=_unwritten(model, error),
        )
    return Rehearsal(told, shapes(_named(outputs)))


def _unwritten(model: nn.Module, error: Exception) -> bool:
    """Tell whether forward itself said that it is not there, and no module or operator did."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    code = getattr(type(model).forward, "__code__", None)
    return (
        type(error) is NotImplementedError and frame is not None and frame.tb_frame.f_code is code
    )


def to_meta(value: Any) -> Any:
    """Give a value with the tensors in it on meta."""
    if isinstance(value, Tensor):
        return value.to("meta")
    return type(value)(map(to_meta, value)) if type(value) in (list, tuple) else value


def shapes(values: Mapping[str, Any]) -> dict[str, str]:
    """Give shape and dtype of the tensors among named values; those in lists get numbers."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            found[name] = _shape(value)
        elif isinstance(value, list | tuple):
            found |= shapes({f"{name}.{number}": item for number, item in enumerate(value)})
    return found


class _Pretending(TorchFunctionMode):
    """Answer what meta tensors cannot; what a forward demands of values is taken to hold."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.__name__ == "__get__":
            return func(*args, **(kwargs or {}))
        if func.__name__ == "_is_all_true":
            return torch.tensor(True)
        refused = disagreement(func.__name__, args, kwargs or {})
        if refused:
            raise RuntimeError(refused)
        return pretend(func, func.__name__, args, kwargs or {})


class _Running:
    """Know which modules of a model are running, the innermost last."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.stack: list[tuple[nn.Module, tuple[Any, ...]]] = []
        self.done = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Follow calls of modules; after a failure the stack is as it was then."""
        before = register_module_forward_pre_hook(lambda m, given: self.stack.append((m, given)))
        after = register_module_forward_hook(lambda m, a, o: self._leave(m))
        try:
            with untouched(self.model), torch.no_grad():
                yield
        finally:
            before.remove()
            after.remove()

    def _leave(self, module: nn.Module) -> None:
        self.done += 1
        while self.stack and self.stack.pop()[0] is not module:
            pass

    @property
    def path(self) -> str:
        """Path of the innermost module that is part of the model."""
        known = (self.paths[id(m)] for m, _ in reversed(self.stack) if id(m) in self.paths)
        return next(known, "")

    @property
    def given(self) -> tuple[str, ...]:
        """Shapes of the positional arguments of the innermost call."""
        arguments = self.stack[-1][1] if self.stack else ()
        return tuple(_shape(value) for value in arguments if isinstance(value, Tensor))


def _named(outputs: Any) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        return outputs
    return {"output": outputs}


def _shape(tensor: Tensor) -> str:
    sizes = " x ".join(map(str, tensor.shape)) or "one number"
    return f"{sizes} {str(tensor.dtype).removeprefix('torch.')}"
