"""Read a PEFT adapter onto a model: every tensor lands, or nothing is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import PatientError, Problems, RefusedError, SurgeryError
from surgery_plugins.peft.export import CONFIG, PREFIX, WEIGHTS

if TYPE_CHECKING:
    from torch import nn

    from surgery.flow.memory import Applied
    from surgery.operate.slots import Slot

_KEY = re.compile(
    r"(?P<path>.+)\.lora_(?:(?P<part>[AB])(?:\.weight)?|embedding_(?P<table>[AB])"
    r"|magnitude_vector(?P<length>)(?:\.weight)?)"
)

_CANNOT = (
    "modules_to_save", "trainable_token_indices", "layer_replication", "lora_bias",
    "target_parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """One tensor of a PEFT adapter.

    Attributes:
        key: its name in the file.
        path: the module.
        part: ``A``, ``B`` or ``M``.
    """

    key: str
    path: str
    part: str


def load_peft(
    model: nn.Module, folder: str | Path, *, adapter: str = "default", seed: int = 0
) -> Applied:
    """Place a PEFT LoRA adapter on a model, as ``surgery.apply`` would.

    Args:
        model: the base; changed in place.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        adapter: name that the adapter gets here.
        seed: recorded in the journal.

    Returns:
        What was done; ``undo()`` takes it back.

    Raises:
        PatientError: the folder is no PEFT adapter.
        RefusedError: the adapter uses what ``lora`` does not have.
        Problems: tensors that match nothing in the model, or have another shape.
    """
    from surgery.flow.memory import apply

    folder = Path(folder)
    config = _config(folder)
    from surgery.checkpoint.tensors import TensorReader

    reader = TensorReader(folder / WEIGHTS)
    saved = [
        _parsed(key, folder)
        for key in reader.entries
        if not _is_base_itself(key, model, reader, folder)
    ]
    _check_paths(saved, model, folder)
    applied = apply(model, [_step(saved, config, reader, adapter)], seed=seed)
    try:
        _land(applied, saved, reader, folder, adapter)
    except BaseException:
        applied.undo()
        raise
    return applied


def _config(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PatientError(
            str(folder / CONFIG), "the configuration of an adapter", str(error)
        ) from None
    if not isinstance(data, dict) or data.get("peft_type") != "LORA":
        found = data.get("peft_type") if isinstance(data, dict) else type(data).__name__
        raise PatientError(str(folder / CONFIG), "a LoRA adapter (peft_type LORA)", str(found))
    used = [name for name in _CANNOT if data.get(name)]
    if data.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise RefusedError(
            str(folder / CONFIG), "an adapter of A and B alone", f"one with {', '.join(used)}",
            "merge it with PEFT and start from the merged weights",
        )  # fmt: skip
    return data


def _is_base_itself(key: str, model: nn.Module, reader: Any, folder: Path) -> bool:
    """Tell whether a tensor is a copy of a base weight, which PEFT saves beside embeddings.

    Raises:
        PatientError: it is one of another base.
    """
    import torch

    if not key.endswith(".base_layer.weight"):
        return False
    name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    own = dict(model.named_parameters(remove_duplicate=False)).get(name)
    if own is None or not torch.equal(own.detach().cpu(), reader.get(key)):
        raise PatientError(
            f"{folder / WEIGHTS}: {key}", f"the base's own {name}", "other values",
            "is this the adapter's base?",
        )  # fmt: skip
    return True


def _parsed(key: str, folder: Path) -> Saved:
    found = _KEY.fullmatch(key.removeprefix(PREFIX))
    if not found:
        raise RefusedError(
            f"{folder / WEIGHTS}: {key}", "a tensor of LoRA (lora_A, lora_B, ...)", "another",
            "merge the adapter with PEFT and start from the merged weights",
        )  # fmt: skip
    return Saved(key, found["path"], found["part"] or found["table"] or "M")


def _check_paths(saved: list[Saved], model: nn.Module, folder: Path) -> None:
    known = dict(model.named_modules(remove_duplicate=False))
    lost = [one for one in saved if one.path not in known]
    if lost:
        raise Problems(
            str(folder),
            [
                PatientError(
                    f"{folder / WEIGHTS}: {one.key}", "a module of the model",
                    f"none at {one.path}", "is this the adapter's base?",
                )
                for one in lost[:20]
            ],
        )  # fmt: skip


def _step(saved: list[Saved], config: Mapping[str, Any], reader: Any, name: str) -> dict[str, Any]:
    """Write the adapter as a step of a recipe: each rank and alpha by path."""
    ranks = {one.path: _rank(reader.entries[one.key].shape) for one in saved if one.part == "A"}
    rslora = bool(config.get("use_rslora", False))
    alphas = {
        path: float(_pattern(config.get("alpha_pattern"), path, config.get("lora_alpha", rank)))
        for path, rank in ranks.items()
    }
    return {
        "use": "lora",
        "at": {"path": sorted(ranks)},
        "expect": len(ranks),
        "with": {
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "rslora": rslora,
            "dora": bool(config.get("use_dora", False)),
            "dropout": float(config.get("lora_dropout", 0.0)),
            "adapter": name,
        },
    }


def _rank(shape: tuple[int, ...]) -> int:
    return shape[0]


def _pattern(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """Find a pattern's value as PEFT does: at the end of the path, after a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _land(applied: Applied, saved: list[Saved], reader: Any, folder: Path, adapter: str) -> None:
    """Copy every tensor into its place.

    Raises:
        Problems: shapes that differ, or places that got no tensor.
    """
    import torch

    slots = {(n.rpartition(".")[0], n[-1]): s for n, s in applied.operation.slots.items()}
    problems = list(_misfits(slots, saved, reader, folder))
    if problems:
        raise Problems(str(folder), problems)
    with torch.no_grad():
        for one in saved:
            values = slots[one.path, one.part].values
            if values is not None:
                values.copy_(reader.get(one.key).reshape(values.shape))


def _misfits(
    slots: Mapping[tuple[str, str], Slot], saved: list[Saved], reader: Any, folder: Path
) -> Iterator[SurgeryError]:
    for one in saved:
        slot, shape = slots.get((one.path, one.part)), reader.entries[one.key].shape
        wanted = slot.shape if slot else None
        if wanted is None or [n for n in wanted if n != 1] != [n for n in shape if n != 1]:
            yield PatientError(
                f"{folder / WEIGHTS}: {one.key}", f"shape {wanted}", f"{shape}",
                "is this the adapter's base?",
            )  # fmt: skip
    for path, part in slots.keys() - {(one.path, one.part) for one in saved}:
        yield PatientError(f"{folder / WEIGHTS}: {path}", f"a tensor lora_{part}", "none")
