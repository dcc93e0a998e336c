"""Pack samples into rows: no token is padding, and no sample sees another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery_plugins.objectives.tokens import padded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from surgery.operate.patient import Patient


def bins(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Put things into as few bins as first-fit-decreasing finds (Johnson 1973).

    Args:
        sizes: of the things, each at most ``room``.
        room: of one bin.

    Returns:
        The numbers of the things in each bin.
    """
    found: list[list[int]] = []
    free: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        place = next((p for p, left in enumerate(free) if left >= sizes[number]), len(found))
        if place == len(found):
            found.append([])
            free.append(room)
        found[place].append(number)
        free[place] -= sizes[number]
    return found


def packed(
    rows: Sequence[Mapping[str, Tensor]], patient: Patient, room: int | None
) -> dict[str, Tensor]:
    """Join samples into rows; positions begin at 0 with each, which is how models tell them apart.

    There is no attention mask: from it models of transformers would take that a row is one text.
    What fills the end of a row has position 0, a text of its own for each token.

    Args:
        rows: ``input_ids`` and ``labels`` of each sample; the first label is never learned.
        patient: its tokenizer says what to pad with.
        room: tokens of a row; None for as many as the longest sample has.
    """
    import torch

    sizes = [len(one["input_ids"]) for one in rows]
    joined = []
    for group in bins(sizes, max(room or 0, *sizes)):
        row = {name: torch.cat([rows[n][name] for n in group]) for name in ("input_ids", "labels")}
        row["position_ids"] = torch.cat([torch.arange(sizes[n]) for n in group])
        joined.append(row)
    return padded(joined, patient)


def unpackable(model: Any) -> str | None:
    """Say why samples in one row of a model would see one another.

    Many models take ``position_ids`` and let packed samples see one another all the same, so two
    texts are run in one row: what the second one gives must not depend on the first one at all,
    which its gradient tells exactly. A model on the meta device is only asked what it takes.
    """
    from inspect import signature

    if "position_ids" not in signature(model.forward).parameters:
        return "its forward takes no position_ids, so that packed samples would see one another"
    table = model.get_input_embeddings().weight
    if table.is_meta:
        return None
    return "packed samples see one another in its layers" if _mixes(model, table.device) else None


_TEXT = 4
"""Tokens of each of the two texts that are run in one row."""


def uncached(model: Any) -> dict[str, bool]:
    """Give what keeps a model from caching keys and values, which training never reads."""
    from inspect import signature

    return {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}


def _mixes(model: Any, device: torch.device) -> bool:
    """Tell whether the second of two packed texts depends on the first one."""
    import torch

    seen: list[Tensor] = []

    def watch(module: object, given: object, out: Tensor) -> Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1].clone()

    handle = model.get_input_embeddings().register_forward_hook(watch)
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            ids = torch.arange(1, 2 * _TEXT + 1, device=device)[None]
            places = torch.arange(_TEXT, device=device).repeat(2)[None]
            logits = model(input_ids=ids, position_ids=places, **uncached(model)).logits
            (found,) = torch.autograd.grad(logits[:, _TEXT:].float().square().sum(), seen[:1])
    finally:
        handle.remove()
    return bool(found[:, :_TEXT].any())
