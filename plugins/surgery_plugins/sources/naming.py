"""How checkpoints of transformers name the tensors of a model, by transformers' own mapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from surgery.operate.source import Naming

if TYPE_CHECKING:
    from torch import Tensor

_USED = "_weight_conversions"


def naming_of(model: Any, stored: Iterable[str]) -> Naming:
    """Say how files name the tensors of a model.

    Since version 5 transformers renames, splits, merges and stacks tensors on load. What is only
    renamed has a name in the files; what goes through operations is converted.

    Args:
        model: a model of transformers, on meta or not.
        stored: the names in the files.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = _mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    names: dict[str, tuple[str, ...]] = {}
    converted: dict[str, str] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for key in stored:
        target, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if target not in state and key in state:
            target, pattern = rename_source_key(key, [], [], prefix, state)
        if pattern is None:
            names[target] = (*names.get(target, ()), key)
            continue
        converter = next(c for c in converters if pattern in c.source_patterns)
        parts[key] = tuple(_targets(target, converter, state))
        converted.update(dict.fromkeys(parts[key], _words(converter)))
    return Naming(names, converted, parts)


def store_as(model: Any, naming: Naming, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names and forms in which a checkpoint of transformers holds them.

    Args:
        model: the model.
        naming: how the files of the base name its tensors; empty where it has none.
        tensors: by name in the model.
    """
    from transformers.core_model_loading import revert_weight_conversion

    with _as_read(model, naming):
        found: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    return found


@contextmanager
def _as_read(model: Any, naming: Naming) -> Iterator[None]:
    """Let transformers revert just the conversions that reading the base's files takes."""
    stored = [*naming.parts, *(key for keys in naming.names.values() for key in keys)]
    before = model.__dict__.get(_USED)
    if stored:
        mapping = _mapping(model)
        for key in stored:
            for conversion in mapping:
                key = conversion.rename_source_key(key)[0]
        setattr(model, _USED, [entry for entry in mapping if entry.was_used()])
    try:
        yield
    finally:
        if stored:
            delattr(model, _USED)
            if before is not None:
                setattr(model, _USED, before)


def _mapping(model: Any) -> list[Any]:
    from transformers.conversion_mapping import get_model_conversion_mapping

    return list(get_model_conversion_mapping(model))


def _targets(target: str, converter: Any, state: Mapping[str, Any]) -> Iterator[str]:
    """Give the names of all that a converter makes, of the name of its first."""
    first = converter.target_patterns[0]
    for pattern in converter.target_patterns:
        name = target.replace(first, pattern)
        if name in state:
            yield name


def _words(converter: Any) -> str:
    return ", ".join(type(step).__name__ for step in converter.operations)
