"""Fold a forward over repeated layers: an alike layer, called alike, is not run again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.alike import alike, value_form

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)


@dataclass(frozen=True)
class _Call:
    """One call of a layer that ran: the tensors it was given, and what it returned."""

    given: list[Tensor]
    returned: Any


_Calls = dict[Hashable, _Call]


def _none(group: Sequence[str]) -> frozenset[str]:
    return frozenset()


@dataclass
class Fold:
    """Let layers answer as an alike one did that was called alike; all tensors are on meta.

    Attributes:
        model: the model.
        mark: gives what more than its form two tensors must share to count as the same argument.
        stand_in: is told of each tensor of an answer: the new one, and the one that it is like.
        always: gives the layers of a group that run at every call.
        groups: paths of alike layers.
        ran: paths of those that ran.
        skipped: paths of those that did not.
    """

    model: nn.Module
    mark: Callable[[Tensor], Hashable] = lambda tensor: None
    stand_in: Callable[[Tensor, Tensor], object] = lambda new, old: None
    always: Callable[[Sequence[str]], frozenset[str]] = _none
    groups: list[list[str]] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)

    @contextmanager
    def over(self) -> Iterator[None]:
        """Answer for alike layers in this block; the model is left as it was."""
        self.groups = alike(self.model)
        placed: list[nn.Module] = []
        try:
            for group in self.groups:
                always, calls = self.always(group), _Calls()
                for path in group:
                    placed.append(self._place(path, calls, always=path in always))
            yield
        finally:
            for module in placed:
                vars(module).pop("forward", None)

    def _place(self, path: str, calls: _Calls, *, always: bool) -> nn.Module:
        module = self.model.get_submodule(path)
        answer = partial(self._run if always else self._answer, path, module.forward, calls)
        vars(module)["forward"] = update_wrapper(answer, module.forward)
        return module

    def _answer(
        self, path: str, forward: Callable[..., Any], calls: _Calls, *args: Any, **kwargs: Any
    ) -> Any:
        given = list(tensors_in([args, kwargs]))
        known = calls.get(self._key(args, kwargs, given))
        if known is None:
            return self._run(path, forward, calls, *args, **kwargs)
        self.skipped.add(path)
        return self._again(known.returned, dict(zip(map(id, known.given), given, strict=True)))

    def _run(
        self, path: str, forward: Callable[..., Any], calls: _Calls, *args: Any, **kwargs: Any
    ) -> Any:
        given = list(tensors_in([args, kwargs]))
        key = self._key(args, kwargs, given)
        self.ran.add(path)
        returned = forward(*args, **kwargs)
        if _can_stand_for(returned):
            calls[key] = _Call(given, returned)
        return returned

    def _key(self, args: Any, kwargs: Any, given: list[Tensor]) -> Hashable:
        return value_form([args, kwargs]), tuple(map(self.mark, given))

    def _again(self, value: Any, given: Mapping[int, Tensor]) -> Any:
        """Give an answer like one that was given; what it passed on of its input, it passes on."""
        if isinstance(value, Tensor):
            new = given.get(id(value))
            if new is None:
                new = torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device=value.device
                )
            self.stand_in(new, value)
            return new
        if isinstance(value, dict):
            return type(value)({key: self._again(item, given) for key, item in value.items()})
        if isinstance(value, tuple | list):
            return type(value)(self._again(item, given) for item in value)
        return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Give the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def _can_stand_for(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(map(_can_stand_for, value))
    if isinstance(value, dict):
        return all(map(_can_stand_for, value.values()))
    return value is None or isinstance(value, (Tensor, *_PLAIN))
