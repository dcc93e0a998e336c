"""Read PEFT adapters onto a model: every tensor lands, or nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import ConflictError
from surgery.operate.importer import Imported, Incoming
from surgery_plugins.peft.folder import Adapter, open_adapter
from surgery_plugins.peft.ground import Ground
from surgery_plugins.peft.low_rank import Pair, pairs_of, step_options, tensors_of
from surgery_plugins.peft.rows import Rows, rows_of
from surgery_plugins.peft.whole import Replaced, replaced

if TYPE_CHECKING:
    from torch import nn

    from surgery.flow.memory import Applied


def load_peft(
    model: nn.Module,
    folder: str | Path | Mapping[str, str | Path],
    *,
    adapter: str = "default",
    seed: int = 0,
    inputs: Mapping[str, Any] | None = None,
) -> Applied:
    """Place PEFT LoRA adapters on a model, as ``surgery.apply`` would.

    Everything but what the adapters train is frozen, as PEFT does.

    Args:
        model: the base; changed in place.
        folder: holds ``adapter_config.json`` and the tensors; or several folders by name. All
            of several adapters are on: see ``select`` in ``surgeries.lora.adapters``.
        adapter: name that the adapter of a single folder gets here.
        seed: recorded in the journal.
        inputs: keyword arguments for one forward, which shows the axes of raw parameters;
            guessed if None.

    Returns:
        What was done; ``undo()`` takes it back.

    Raises:
        PatientError: a folder is no PEFT adapter.
        RefusedError: an adapter uses what has no exact equivalent here.
        Problems: tensors and configuration disagree, or are of another base.
    """
    from surgery.flow.intake import take_over
    from surgery.hooks.registry import registry
    from surgery.operate.patient import Patient

    folders = folder if isinstance(folder, Mapping) else {adapter: folder}
    given = None if inputs is None else dict(inputs)
    patient = Patient(model, config=getattr(model, "config", None), inputs=given)
    imported = read_adapters({n: Path(path) for n, path in folders.items()}, model, given)
    where = ", ".join(map(str, folders.values()))
    return take_over(patient, imported, registry(), where=where, seed=seed)


def read_adapters(
    folders: Mapping[str, Path], model: nn.Module, inputs: Mapping[str, Any] | None = None
) -> Imported:
    """Say PEFT's adapters in surgeries; the model is looked at and not changed.

    Args:
        folders: the adapters by the names that they get here.
        model: the base, with its weights.
        inputs: keyword arguments for one forward; guessed if None.

    Raises:
        SurgeryError: see ``load_peft``.
    """
    ground = Ground(model, inputs)
    adapters = [open_adapter(path, name) for name, path in folders.items()]
    pairs = [pairs_of(one, ground) for one in adapters]
    whole = [replaced(*given) for given in zip(adapters, [ground] * len(pairs), pairs, strict=True)]
    rows = [rows_of(one, ground) for one in adapters]
    _check_apart(adapters, whole, rows)
    steps = [
        *_untie(whole, rows),
        {"use": "freeze", "at": {"path": "**"}},
        *(step for one, found in zip(adapters, pairs, strict=True) for step in _lora(one, found)),
        *(_unfreeze(one) for one in whole if one.train),
        *(_unfreeze_rows(one) for found in rows for one in found),
    ]
    tensors = dict(_as_they_are(ground, steps))
    for adapter, found, other, trained in zip(adapters, pairs, whole, rows, strict=True):
        tensors |= {name: one for pair in found for name, one in tensors_of(adapter, pair)}
        tensors |= other.tensors
        tensors |= {f"{one.path}.rows_weight": one.tensor for one in trained}
    return Imported(tuple(steps), tensors)


def _untie(whole: Iterable[Replaced], rows: Iterable[list[Rows]]) -> Iterator[dict[str, Any]]:
    paths = {path for one in whole for path in one.untie}
    paths |= {one.path for found in rows for one in found if one.untie}
    if paths:
        yield {"use": "untie", "at": {"path": sorted(paths)}, "expect": len(paths)}


def _as_they_are(
    ground: Ground, steps: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Incoming]]:
    """Give modules that leave a tie the base's values, for the case that nothing replaces them."""
    paths = [path for step in steps if step["use"] == "untie" for path in step["at"]["path"]]
    for name in (name for path in paths for name in ground.below(path)):
        held = ground.tensors[name].detach()
        yield name, Incoming(f"the base: {name}", tuple(held.shape), held.clone)


def _lora(adapter: Adapter, pairs: list[Pair]) -> Iterator[dict[str, Any]]:
    """Write an adapter as steps of a recipe: one for each rank, alpha and dropout."""
    steps: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for pair in pairs:
        options = step_options(adapter, pair)
        steps.setdefault(repr(options), (options, []))[1].append(pair.weight)
    for options, paths in steps.values():
        at = {"path": sorted(paths)}
        yield {"use": "lora", "at": at, "expect": len(paths), "with": options}


def _unfreeze(one: Replaced) -> dict[str, Any]:
    return {"use": "unfreeze", "at": {"path": list(one.train)}, "overlap": True}


def _unfreeze_rows(one: Rows) -> dict[str, Any]:
    options = {"rows": one.rows}
    return {"use": "unfreeze", "at": {"path": one.path}, "with": options, "overlap": True}


def _check_apart(
    adapters: Sequence[Adapter], whole: Sequence[Replaced], rows: Sequence[list[Rows]]
) -> None:
    """Refuse two adapters that replace the same tensor: the base can have one value alone."""
    held: dict[str, str] = {}
    for adapter, other, trained in zip(adapters, whole, rows, strict=True):
        for name in (*other.tensors, *(f"{one.path}.weight" for one in trained)):
            if name in held:
                raise ConflictError(
                    f"{adapter.folder}: {name}", "one adapter that replaces it",
                    f"another at {held[name]}", "load one of the two",
                )  # fmt: skip
            held[name] = str(adapter.folder)
