"""Answer what meta tensors cannot: values that decide the control flow of a forward."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

_META = torch.device("meta")


def pretend(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function on meta tensors; invent an answer where only values could give one.

    Conditions are false, single numbers are 1, and every element of a mask is set; index lists
    have one entry, so that loops over them run once.
    """
    invent: Any = _INVENT.get(name)
    if invent is not None and _on_meta(args):
        answer = invent(*args, **kwargs)
        if answer is not NotImplemented:
            return answer
    if name in _FROM_NUMBERS:
        args = tuple(_number(a) if isinstance(a, Tensor) and a.is_meta else a for a in args)
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        moved = _to_meta(args), _to_meta(kwargs)
        if "meta" not in str(error) and "device" not in str(error):
            raise
        return func(*moved[0], **moved[1])


def _on_meta(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].is_meta


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(_META)
    if isinstance(value, dict):
        return {key: _to_meta(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_to_meta, value))
    return value


def _number(tensor: Tensor) -> Any:
    if tensor.dtype == torch.bool:
        return False
    return 1.0 if tensor.is_floating_point() else 1


def _nonzero(tensor: Tensor, *, as_tuple: bool = False, **_: Any) -> Any:
    found = torch.empty((1, tensor.dim()), dtype=torch.long, device=_META)
    return tuple(found.unbind(1)) if as_tuple else found


def _where(condition: Tensor, *others: Any, **_: Any) -> Any:
    return NotImplemented if others else _nonzero(condition, as_tuple=True)


def _nested(shape: tuple[int, ...], value: Any) -> Any:
    return [_nested(shape[1:], value) for _ in range(shape[0])] if shape else value


def _index(tensor: Tensor, key: Any) -> Any:
    keys = key if isinstance(key, tuple) else (key,)
    masks = [k for k in keys if isinstance(k, Tensor) and k.dtype in (torch.bool, torch.uint8)]
    if not masks:
        return NotImplemented
    mask = masks[0]
    before = sum(
        1 for k in keys[: next(i for i, k in enumerate(keys) if k is mask)] if k is not None
    )
    shape = (*tensor.shape[:before], prod(mask.shape), *tensor.shape[before + mask.dim() :])
    return tensor.new_empty(shape)


def _masked(tensor: Tensor, mask: Tensor, **_: Any) -> Any:
    return tensor.expand((tensor * mask).shape).reshape(-1)


def _repeat(tensor: Tensor, repeats: Any = None, *_: Any, **kwargs: Any) -> Any:
    if not isinstance(repeats, Tensor):
        return NotImplemented
    return tensor.clone() if kwargs.get("dim") is not None else tensor.reshape(-1).clone()


def _grouped(data: Tensor, weight: Tensor, *_: Any, **__: Any) -> Any:
    return data.new_empty((*data.shape[:-1], weight.shape[-1]))


_FROM_NUMBERS = {"arange", "linspace", "range", "full"}
"""Functions that make tensors from numbers, which may come as tensors."""

_INVENT = {
    "_grouped_mm": _grouped,
    "grouped_mm": _grouped,
    "__bool__": lambda tensor: False,
    "item": _number,
    "__int__": lambda tensor: 1,
    "__float__": lambda tensor: 1.0,
    "__index__": lambda tensor: 1,
    "tolist": lambda tensor: _nested(tuple(tensor.shape), _number(tensor)),
    "nonzero": _nonzero,
    "argwhere": _nonzero,
    "where": _where,
    "masked_select": _masked,
    "__getitem__": _index,
    "repeat_interleave": _repeat,
    "equal": lambda one, other: False,
    "allclose": lambda one, other, **_: False,
    "__contains__": lambda tensor, element: False,
}
