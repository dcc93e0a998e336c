"""Ids of named tokens: where tokenizer, configuration, generation and processor keep them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery.operate.edits import SetAttribute, SetConfig
from surgery_plugins.tokenizers.tables import configs_of

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


def assigned(tokenizer: Any, names: Mapping[str, str]) -> Any:
    """Set named tokens of a tokenizer, a copy of the patient's, that it has a name for."""
    for name, token in names.items():
        if name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
            setattr(tokenizer, name, token)
    return tokenizer


def id_edits(patient: Patient, tokenizer: Any, names: Mapping[str, str]) -> Iterator[SetConfig]:
    """Give the edits that make everything else agree with newly named tokens.

    Args:
        patient: as it is before.
        tokenizer: the changed tokenizer.
        names: tokens by name, such as ``{"pad_token": "<pad>", "image_token": "<image>"}``.

    Raises:
        RefusedError: neither tokenizer nor configuration nor processor knows a name.
    """
    ids = tokenizer.get_vocab()
    for name, token in names.items():
        old = _old_id(patient, name)
        edits = [*_of_configs(patient, name, ids[token], old), *_of_processor(patient, name, token)]
        edits += _of_processor(patient, f"{name}_id", ids[token])
        edits += _of_processor(patient, f"{name}_ids", [ids[token]])
        if not edits and name not in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
            raise RefusedError(
                f"tokens: assign.{name}",
                "a name that tokenizer, configuration or processor has",
                f"none of {name}, {name}_id, {name}_index",
                "known to all tokenizers: " + ", ".join(tokenizer.SPECIAL_TOKENS_ATTRIBUTES),
            )
        yield from edits


def renaming_edits(patient: Patient, names: Mapping[str, str]) -> Iterator[SetConfig]:
    """Give the edits that rename tokens in the processor's attributes."""
    for name, value in _attributes(patient.processor).items():
        if name.endswith("_token") and str(value) in names:
            yield SetConfig(name, names[str(value)], of="processor")


def template_edits(patient: Patient, template: Any) -> Iterator[SetConfig]:
    """Give the edit of a processor's own chat template, where it has one."""
    if _attributes(patient.processor).get("chat_template") is not None:
        yield SetConfig("chat_template", template, of="processor")


def padding_edits(patient: Patient, tables: Collection[str], new: int) -> Iterator[SetAttribute]:
    """Give the edits of modules that hold the id of padding, as a model built anew would have it.

    None where positions are counted from it, as RoBERTa does: those were trained as they are.

    Args:
        patient: as it is before.
        tables: paths of the embeddings of tokens.
        new: the new id.
    """
    from torch.nn import Embedding

    old = getattr(patient.config, "pad_token_id", None)
    holders = {
        path: module
        for path, module in patient.model.named_modules()
        if "padding_idx" in vars(module) and vars(module)["padding_idx"] == old
    }
    others = [p for p, m in holders.items() if isinstance(m, Embedding) and p not in tables]
    if old is not None and others:
        return
    for path in (path for path in holders if path not in others):
        yield SetAttribute(f"{path}.padding_idx" if path else "padding_idx", new)


def mentions(patient: Patient, number: int) -> Iterator[str]:
    """Give the configuration values that are an id: dotted keys."""
    for prefix, config in configs_of(patient.config):
        yield from (f"config.{prefix}{key}" for key in _keys_with(config, number))
    generation = getattr(patient.model, "generation_config", None)
    yield from (f"generation_config.{key}" for key in _keys_with(generation, number))


def _keys_with(config: Any, number: int) -> Iterator[str]:
    for key, value in _attributes(config).items():
        held = value if isinstance(value, list | tuple) else [value]
        if key.endswith(("_token_id", "_token_index")) and number in held:
            yield key


def _of_configs(patient: Patient, name: str, number: int, old: int | None) -> Iterator[SetConfig]:
    for prefix, config in configs_of(patient.config):
        if prefix and not hasattr(config, "vocab_size"):
            continue
        for key in (f"{name}_id", f"{name}_index"):
            if key in _attributes(config):
                yield SetConfig(prefix + key, _with_id(getattr(config, key), number, old))
    generation = getattr(patient.model, "generation_config", None)
    key = f"{name}_id"
    if key in _attributes(generation):
        value = _with_id(getattr(generation, key), number, old)
        yield SetConfig(key, value, of="generation_config")


def _of_processor(patient: Patient, key: str, value: Any) -> Iterator[SetConfig]:
    if key in _attributes(patient.processor):
        yield SetConfig(key, value, of="processor")


def _with_id(held: Any, number: int, old: int | None) -> Any:
    """Give a value with a new id in the old one's place; further ids of a list stay."""
    if not isinstance(held, list | tuple):
        return number
    return [number, *(i for i in held if i not in (number, old))]


def _old_id(patient: Patient, name: str) -> int | None:
    return getattr(patient.tokenizer, f"{name}_id", None)


def _attributes(owner: Any) -> dict[str, Any]:
    return {} if owner is None else {k: v for k, v in vars(owner).items() if k[:1] != "_"}
