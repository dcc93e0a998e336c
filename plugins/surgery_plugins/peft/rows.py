"""Token rows that an adapter trains alone: PEFT's ``trainable_token_indices``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import PatientError, Problems, RefusedError, SurgeryError
from surgery.operate.importer import Incoming
from surgery_plugins.peft.folder import Adapter
from surgery_plugins.peft.ground import Ground
from surgery_plugins.peft.low_rank import BASE
from surgery_plugins.peft.names import CONFIG

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of one weight.

    Attributes:
        path: the module.
        rows: the rows as ``unfreeze`` reads them.
        untie: True where another module holds the weight and keeps the old rows.
        tensor: the values, in rising order of rows.
    """

    path: str
    rows: str
    untie: bool
    tensor: Incoming


def rows_of(adapter: Adapter, ground: Ground) -> list[Rows]:
    """Give the rows that an adapter trains.

    Raises:
        Problems: the tensors and the configuration disagree, or are of another base.
        RefusedError: PEFT computes something else than the rows.
    """
    wanted = dict(_wanted(adapter, ground))
    keys = {name.path: name.key for name in adapter.names if name.kind == "tokens"}
    problems = [
        *(_missing(adapter, path) for path in wanted.keys() - keys.keys()),
        *(_unexpected(adapter, keys[path], path) for path in keys.keys() - wanted.keys()),
        *(p for path in wanted.keys() & keys.keys()
          for p in _unfit(adapter, ground, keys[path], path, wanted[path])),
    ]  # fmt: skip
    if problems:
        raise Problems(str(adapter.folder), problems)
    return [_rows(adapter, ground, path, wanted[path], keys[path]) for path in wanted]


def _wanted(adapter: Adapter, ground: Ground) -> Iterator[tuple[str, list[int]]]:
    """Give module and rows as the configuration says, tied followers left out as PEFT does."""
    said = adapter.config.get("trainable_token_indices")
    if not said:
        return
    if not isinstance(said, dict):
        yield ground.embedding, list(said)
        return
    found = {
        path: list(rows)
        for ending, rows in said.items()
        for path, _ in ground.model.named_modules(remove_duplicate=False)
        if path.endswith(ending)
    }
    first = found.get(ground.embedding)
    for path, rows in found.items():
        if path == ground.embedding or rows != first or not _follows(path, ground):
            yield path, rows


def _follows(path: str, ground: Ground) -> bool:
    """Tell whether a module's weight is tied to the embedding's, for PEFT too."""
    config = getattr(ground.model, "config", None)
    names = ground.names_of(f"{ground.embedding}.weight")
    return bool(getattr(config, "tie_word_embeddings", False)) and f"{path}.weight" in names


def _missing(adapter: Adapter, path: str) -> SurgeryError:
    return PatientError(
        str(adapter.file), f"the rows of {path}, which {CONFIG} says are trained", "none",
        "is the file whole?",
    )  # fmt: skip


def _unexpected(adapter: Adapter, key: str, path: str) -> SurgeryError:
    found = f"rows of {path}"
    return PatientError(adapter.where(key), f"rows that {CONFIG} names", found, BASE)


def _unfit(
    adapter: Adapter, ground: Ground, key: str, path: str, rows: Sequence[int]
) -> Iterator[SurgeryError]:
    weight = ground.tensors.get(f"{path}.weight")
    if weight is None:
        yield PatientError(adapter.where(key), "a weight of the model", f"none at {path}", BASE)
        return
    wanted = (len(rows), *weight.shape[1:])
    if adapter.shapes[key] != wanted:
        yield PatientError(
            adapter.where(key), f"shape {wanted}", f"shape {adapter.shapes[key]}", BASE
        )
    if len(set(rows)) < len(rows) or not 0 <= min(rows) <= max(rows) < weight.shape[0]:
        yield PatientError(
            f"{adapter.folder / CONFIG}: trainable_token_indices",
            f"different rows below {weight.shape[0]}", str(list(rows)), BASE,
        )  # fmt: skip


def _rows(adapter: Adapter, ground: Ground, path: str, rows: Sequence[int], key: str) -> Rows:
    if f"{path}.bias" in ground.tensors:
        raise RefusedError(
            f"{adapter.folder}: {path}", "rows of a weight without a bias", "one with a bias",
            "PEFT leaves the bias out of what the module computes; train the rows anew",
        )  # fmt: skip
    order = sorted(range(len(rows)), key=rows.__getitem__)

    def read() -> Tensor:
        return adapter.get(key)[order]

    tied = len(ground.names_of(f"{path}.weight")) > 1
    follows = path == ground.embedding and _follows(path, ground)
    text = ",".join(str(rows[number]) for number in order)
    tensor = Incoming(adapter.where(key), adapter.shapes[key], read)
    return Rows(path, text, tied and not follows, tensor)
