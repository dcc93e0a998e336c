"""Follow a forward module by module: where it raises, and where a wrong value first arises."""

from __future__ import annotations

import linecache
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

import torch

from surgery.checks.digest import digest_of
from surgery.checks.invariants import in_eval, is_finite, tensors_in

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

WHOLE = "(the model itself)"
"""How the module at the root is named."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What one call of a module gave, without its values.

    Attributes:
        path: the module.
        call: number of the call of this module, from 0.
        digests: sha256 of each floating tensor that it gave.
        length: their L2 norm, all together.
        finite: False where one of them holds NaN or infinity.
    """

    path: str
    call: int
    digests: tuple[str, ...]
    length: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of a forward or a backward.

    Attributes:
        where: path of the innermost module that was running.
        what: type, message or source line, place, and what the module was called with.
    """

    where: str
    what: str


@dataclass
class Watch:
    """Follow the calls of a model's modules.

    Attributes:
        marks: what each call gave, in the order in which they ended; empty unless ``values``.
        order: paths in the order in which they were first called.
    """

    values: bool = True
    marks: list[Mark] = field(default_factory=list)
    order: dict[str, None] = field(default_factory=dict)
    _open: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)

    @property
    def inside(self) -> tuple[str, str]:
        """The innermost module that was entered and not left, and the shapes it was given."""
        deepest = max(self._open.values(), key=len, default=[])
        return deepest[-1] if deepest else (WHOLE, "")

    def enter(self, path: str, given: Any) -> None:
        """Note that a module is called."""
        self.order.setdefault(path)
        self._open.setdefault(get_ident(), []).append((path, shapes_of(given)))

    def leave(self, path: str, answer: Any) -> None:
        """Note what a module gave."""
        self._open[get_ident()].pop()
        if self.values:
            call = self._calls[path] = self._calls.get(path, -1) + 1
            self.marks.append(_mark(path, call, list(tensors_in(answer))))


def _mark(path: str, call: int, answer: list[Tensor]) -> Mark:
    lengths = [float(torch.linalg.vector_norm(t.detach().float().abs())) for t in answer]
    digests = tuple(digest_of(t) for t in answer)
    return Mark(
        path, call, digests, sum(v * v for v in lengths) ** 0.5, all(map(is_finite, answer))
    )


@contextmanager
def watched(model: nn.Module, values: bool = True) -> Iterator[Watch]:
    """Follow a model's modules for as long as the context lasts; its hooks are as before then.

    Args:
        model: the model.
        values: False to note where calls are, and not what they give.
    """
    watch, handles = Watch(values), []
    try:
        for path, module in model.named_modules():
            handles += _follow(watch, path or WHOLE, module)
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _follow(watch: Watch, path: str, module: nn.Module) -> list[RemovableHandle]:
    def before(module: nn.Module, given: Any, named: Any) -> None:
        watch.enter(path, (given, named))

    def after(module: nn.Module, given: Any, answer: Any) -> None:
        watch.leave(path, answer)

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]


@contextmanager
def trying(model: nn.Module) -> Iterator[None]:
    """Run what may draw numbers in eval mode; modes and generators are as before afterwards."""
    with in_eval(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def raised(error: BaseException, watch: Watch) -> Raised:
    """Describe an exception by the module that was running, and what that was called with."""
    path, given = watch.inside
    return Raised(path, told(error) + (f", called with {given}" if given else ""))


def told(error: BaseException) -> str:
    """Describe an exception in one line: type, message and place.

    One without a message, as an assertion has, is described by its source line.
    """
    line, place = _source(error)
    text = " ".join(str(error).split()) or line
    return f"{type(error).__name__}: {text[:300]}{place}"


def _source(error: BaseException) -> tuple[str, str]:
    """Give the last source line outside of torch that an exception passed, and its place."""
    inside = str(Path(torch.__file__).parent)
    frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith(inside)]
    if not frames:
        return "no message", ""
    file, number = frames[-1].filename, frames[-1].lineno or 0
    return linecache.getline(file, number).strip(), f" ({Path(file).name}:{number})"


def shapes_of(value: Any) -> str:
    """Give the shapes of all tensors in nested arguments, such as ``(1, 10, 10, 16)``."""
    return ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
