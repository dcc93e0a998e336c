"""What the tracer does after the functions that matter: contractions, attention, sums, norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from surgery.anatomy.provenance import Attention, Known, Origin
from surgery.anatomy.trace import Trace, handles, union


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], at: int, *names: str) -> Any:
    if len(args) > at:
        return args[at]
    return next((kwargs[name] for name in names if name in kwargs), None)


@handles("linear")
def _linear(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    data, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    return trace.contract(out, data, weight)


@handles("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    data, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    if not trace.contract(out, data, weight, "conv", (0, 1)):
        return False
    stride = _argument(args, kwargs, 3, "stride") or 1
    kernel = tuple(weight.shape[2:])
    steps = (stride,) * len(kernel) if isinstance(stride, int) else tuple(stride)
    trace.origins[-1].patch = steps == kernel and max(kernel) > 1
    return True


@handles("embedding", "embedding_bag")
def _embedding(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    ids, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
    if not trace.contract(out, ids, weight, "embedding", (0, None)):
        return False
    known = trace.known(out)
    assert known is not None
    known.stream = trace.origins[-1].modes.isdisjoint({"constant", "learned"})
    return True


@handles("__getitem__", "index_select", "gather", "take_along_dim")
def _pick(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Pass on what is picked from, not what says which; ids of an input look up an embedding."""
    picked, index = args[0], args[1] if len(args) == 2 else _argument(args, kwargs, 2, "index")
    source, key = trace.known(picked), trace.known(index)
    if source is None or key is None or not key.is_data:
        return False
    if source.is_weight and not key.origins and "learned" not in key.modes:
        return _embedding(trace, out, (index, picked), {})
    moved = tuple(a if a is picked else None for a in args)
    joined = union([source])
    trace.keep(Known(out, **joined, made=(args[0].clone, moved, {}, 0)))
    return True


@handles("__setitem__")
def _set(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Let values that are stored into a tensor be part of it from then on."""
    target, key, value = args
    stored = trace.known(value)
    if stored is None:
        return True
    before = trace.known(target) or Known(target)
    joined = union([before, stored])
    trace.keep(Known(target, **joined, made=(store, (before, key, stored), {}, 0)))
    return True


def store(target: Tensor, key: Any, value: Tensor) -> Tensor:
    """Give a copy of a tensor with values stored in it."""
    copy = target.clone()
    copy[key] = value
    return copy


@handles("copy_")
def _copy(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Let values that are copied into a view be part of what it is a view of."""
    target, stored = args[0], trace.known(_argument(args, kwargs, 1, "src"))
    if stored is None:
        return True
    whole = target if target._base is None else target._base
    before = trace.known(whole) or Known(whole)
    place = (tuple(target.shape), target.stride(), target.storage_offset())
    for tensor in (whole, target):
        joined = union([before, stored])
        made: Any = (store_at, (before, place, stored), {}, 0) if tensor is whole else None
        trace.keep(Known(tensor, **joined, made=made))
    return True


def store_at(whole: Tensor, place: tuple[Any, Any, int], value: Tensor) -> Tensor:
    """Give a copy of a tensor with values stored where a view of it lies."""
    copy = whole.contiguous().clone()
    copy.as_strided(*place).copy_(value)
    return copy


@handles("matmul", "__matmul__", "mm", "bmm", "mv", "_grouped_mm", "grouped_mm")
def _matmul(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    left, right = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "other", "mat2")
    return _product(trace, out, left, right)


@handles("__rmatmul__")
def _rmatmul(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return _product(trace, out, args[1], args[0])


@handles("addmm", "baddbmm", "addbmm", "addmm_", "baddbmm_")
def _addmm(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    left, right = (
        _argument(args, kwargs, 1, "mat1", "batch1"),
        _argument(args, kwargs, 2, "mat2", "batch2"),
    )
    return _product(trace, out, left, right)


@handles("einsum")
def _einsum(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    operands = args[1:] if len(args) > 2 else tuple(args[1])
    return len(operands) == 2 and _product(trace, out, *operands)


def _product(trace: Trace, out: Tensor, left: Any, right: Any) -> bool:
    one, two = trace.known(left), trace.known(right)
    if two is not None and two.is_weight and (one is None or not one.is_weight):
        return trace.contract(out, left, right, dims=(-1, -2))
    if one is not None and one.is_weight and (two is None or not two.is_weight):
        return trace.contract(out, right, left)
    if one is None or two is None or not (one.is_data and two.is_data):
        return False
    for probs, values in ((one, two), (two, one)):
        if probs.probs is not None:
            return trace.attend(out, *probs.probs, values)
    joined = union([one, two])
    joined.update(scores=(one, two), stream=False, glu=None)
    trace.keep(Known(out, **joined))
    return True


@handles("softmax", "_softmax", "log_softmax")
def _softmax(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    known = trace.known(_argument(args, kwargs, 0, "input"))
    if known is None or known.scores is None:
        return False
    joined = union([known])
    joined.update(probs=known.scores, scores=None)
    trace.keep(Known(out, **joined))
    return True


@handles("scaled_dot_product_attention")
def _sdpa(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    names = ("query", "key", "value")
    given = [trace.known(_argument(args, kwargs, at, name)) for at, name in enumerate(names)]
    q, k, v = given
    if q is None or k is None or v is None:
        return False
    return trace.attend(out, q, k, v)


@handles("multi_head_attention_forward")
def _multi_head(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Record torch's own attention, whose rows are q, k and v by definition."""
    data = [trace.known(args[at]) for at in range(3)]
    size = args[3]
    fused = args[5] if args[5] is not None else None
    weights = [fused] * 3 if fused is not None else [
        kwargs[f"{part}_proj_weight"] for part in "qkv"
    ]  # fmt: skip
    parts = [_part(trace, known, w, n if fused is not None else None, size)
             for n, (known, w) in enumerate(zip(data, weights, strict=True))]  # fmt: skip
    result = out[0]
    trace.attend(result, *parts)
    projected = trace.contract(result, result, args[11])
    if isinstance(out[1], Tensor):
        trace.keep(Known(out[1], modes=parts[0].modes))
    return projected


def _part(trace: Trace, data: Known | None, weight: Tensor, number: int | None, size: int) -> Known:
    known = trace.known(weight)
    assert known is not None
    rows = None if number is None else ((number * size, (number + 1) * size),)
    origin = Origin(
        weights=known.weights,
        stream=bool(data and data.stream),
        inputs=data.origins if data else frozenset(),
        calls=frozenset(),
        glu=None,
        kind="linear",
        modes=(data.modes if data else frozenset()) or frozenset(("learned",)),
        weight=weight,
        rows=rows,
    )
    trace.origins.append(origin)
    return Known(weight.new_empty(0), origins=frozenset((origin,)), modes=origin.modes)


@handles("add", "__add__", "__radd__", "__iadd__", "add_")
def _add(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    one, two = trace.known(args[0]), trace.known(_argument(args, kwargs, 1, "other"))
    if one is None or two is None or not (one.is_data and two.is_data):
        return False
    if one.scores or two.scores or one.probs or two.probs:
        return False
    if not (one.stream or two.stream) and one.origins == two.origins and one.calls == two.calls:
        return False
    if not (one.stream or two.stream):
        _begin_stream(trace, one, two)
        _begin_stream(trace, two, one)
    for known in (one, two):
        if not known.stream:
            for origin in known.origins:
                origin.joined = True
    func_args = (one, two)
    joined = union([one, two])
    joined.update(stream=True, glu=None, activated=False)
    trace.keep(Known(out, **joined, made=(_first, func_args, {}, 0)))
    return True


def _begin_stream(trace: Trace, start: Known, branch: Known) -> None:
    """See that the stream began before: what a branch read is added to what the branch gave."""
    if start.origins and any(start.origins <= o.inputs for o in _behind(branch)):
        for origin in trace.origins:
            origin.stream |= origin.inputs == start.origins


def _behind(known: Known) -> set[Origin]:
    """Give the origins of a tensor and those that they read."""
    found = set(known.origins) | {o for call in known.calls for o in _parts(call)}
    return found | {before for origin in found for before in origin.inputs}


def _parts(call: Attention) -> set[Origin]:
    return {o for known in (call.q, call.k, call.v) for o in known.origins}


def _first(one: Tensor, *_: Tensor) -> Tensor:
    return one


@handles("mul", "__mul__", "__rmul__", "__imul__", "mul_")
def _mul(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    one, two = trace.known(args[0]), trace.known(_argument(args, kwargs, 1, "other"))
    if one is None or two is None:
        return False
    _norm_by_hand(trace, one, two)
    joined = union([one, two])
    joined["scaled"] = "normed" if "inverse" in (one.scaled, two.scaled) else ""
    if one.is_data and two.is_data and not (one.scores or two.scores):
        joined["glu"] = _sides(one, two) or joined["glu"]
        joined["activated"] = one.activated or two.activated
    trace.keep(Known(out, **joined, made=("mul", (one, two), {}, 0)))
    return True


def _sides(one: Known, two: Known) -> tuple[Known, Known] | None:
    """Give the two sides of a gated product, the activated one first."""
    same = one.tensor.dim() and two.tensor.dim() and one.tensor.shape[-1] == two.tensor.shape[-1]
    if not same or not (one.origins and two.origins) or one.activated == two.activated:
        return None
    return (one, two) if one.activated else (two, one)


def _norm_by_hand(trace: Trace, one: Known, two: Known) -> None:
    for weight, data in ((one, two), (two, one)):
        if weight.is_weight and data.scaled == "normed":
            trace.norms |= weight.weights


@handles("rsqrt", "rsqrt_")
def _rsqrt(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    known = trace.known(args[0])
    if known is not None:
        joined = union([known])
        joined["scaled"] = "inverse"
        trace.keep(Known(out, **joined))
    return known is not None


@handles("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")
def _norm(trace: Trace, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    for value in (*args[1:], *kwargs.values()):
        known = trace.known(value)
        if known is not None and known.is_weight:
            trace.norms |= known.weights
    return False
