"""Invariants of a patient in memory after an operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgery.anatomy.stand_in import untouched
from surgery.checks.check import Check, failed, passed, skipped

if TYPE_CHECKING:
    from torch import nn


def finite(tensors: Mapping[str, Tensor]) -> Check:
    """Check that tensors hold neither NaN nor infinity.

    The sum is looked at first: it is finite for nearly every finite tensor, and one pass.
    """
    bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if bad:
        return failed("finite values", f"NaN or infinity in {', '.join(bad[:5])} ({len(bad)})")
    return passed("finite values", f"{len(tensors)} tensors")


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return True
    return bool(torch.isfinite(tensor.detach().sum())) or bool(torch.isfinite(tensor).all())


def same_table(planned: Sequence[Any], found: Sequence[Any]) -> Check:
    """Check that a model's tensors are those of the plan: names, shapes, dtypes, flags, ties.

    Args:
        planned: rows of the plan.
        found: rows of the model.
    """
    want, have = {row.name: row for row in planned}, {row.name: row for row in found}
    wrong = sorted(set(want) ^ set(have)) or [n for n, row in want.items() if row != have[n]]
    if not wrong:
        return passed("plan equals model", f"{len(want)} tensors")
    first = wrong[0]
    return failed(
        "plan equals model",
        f"{len(wrong)} tensors differ; {first}: planned {want.get(first)}, found {have.get(first)}",
    )


def run(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Run one forward without gradients in eval mode and give the floating tensors it returns."""
    with untouched(model), in_eval(model), torch.no_grad():
        return [t.detach().clone() for t in tensors_in(model(**inputs))]


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; every module has its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def tensors_in(value: Any) -> Iterable[Tensor]:
    """Give every floating tensor in nested tuples, lists, mappings and model outputs."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def identity(before: Sequence[Tensor], after: Sequence[Tensor], rounding: float = 0.0) -> Check:
    """Check that outputs are bit-equal, or as close as a surgery's rounding allows.

    Args:
        before: the outputs before.
        after: the outputs after; more may follow, of modules beside the model.
        rounding: how long the difference may be, as a share of the output, in the L2 norm.
    """
    name = "identity at init"
    if len(before) > len(after) or not before:
        return failed(name, f"{len(before)} outputs before, {len(after)} after")
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        gap = _gap(old, new) if old.shape == new.shape else float("inf")
        if not gap <= rounding:
            return failed(name, f"output {number} differs by {gap:.3g} of its length")
    how = f"equal up to {rounding:.3g} of their length" if rounding else "bit-equal"
    more = f", {len(after) - len(before)} more" if len(after) > len(before) else ""
    return passed(name, f"{len(before)} outputs {how}{more}")


def _gap(old: Tensor, new: Tensor) -> float:
    """Give the length of a difference as a share of the first; 0 for equal bits alone."""
    if torch.equal(old, new):
        return 0.0
    wide = torch.promote_types(old.dtype, torch.float64)
    gap = (old.to(wide) - new.to(wide)).norm()
    return float(gap / old.to(wide).norm().clamp(min=torch.finfo(torch.float64).tiny))


def vocabulary(rows: int | None, tokens: int | None, stated: int | None) -> Check:
    """Check that the embedding has a row for every token and the config says so.

    Args:
        rows: rows of the input embedding.
        tokens: number of tokens, added ones included.
        stated: ``vocab_size`` of the configuration.
    """
    name = "vocabulary rows"
    if rows is None:
        return skipped(name, "the model names no input embedding")
    if stated is not None and stated != rows:
        return failed(name, f"config says {stated}, the embedding has {rows} rows")
    if tokens is None:
        return skipped(name, f"{rows} rows; there is no tokenizer to compare with")
    if tokens > rows:
        return failed(name, f"{tokens} tokens for {rows} rows")
    return passed(name, f"{tokens} tokens, {rows} rows")
