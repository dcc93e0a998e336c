"""Which values of the configuration follow from the layers of one stack."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError, SurgeryError
from surgery_plugins.surgeries.fresh.build import build
from surgery_plugins.surgeries.fresh.settings import changed, joined, parts
from surgery_plugins.surgeries.layers.order import Order
from surgery_plugins.surgeries.layers.stages import stage_settings

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient

_LAYERED = re.compile("layer|block|depth|window|attn|attention")
_NUMBERS = re.compile("layer|block|index|indices|idx")


@dataclass(frozen=True)
class Counted:
    """Where a configuration says how many layers a stack has.

    Attributes:
        key: dotted key of the part; ``""`` for the whole.
        name: the value in that part.
        index: which element of it, where it is a list of the layers of several stages.
    """

    key: str
    name: str
    index: int | None = None

    def setting(self, part: Any, count: int) -> tuple[str, Any]:
        """Give dotted key and value for another number of layers."""
        value: Any = count
        if self.index is not None:
            value = list(getattr(part, self.name))
            value[self.index] = count
        return joined(self.key, self.name), value


def settings_for(patient: Patient, container: str, count: int, order: Order) -> dict[str, Any]:
    """Give the values of the configuration that make a stack what it is to be, by dotted key.

    The number of layers is the value that gives the stack one layer more when it says so; this
    is tried on models without weights. Lists with a value for each layer follow the layers, and
    so do lists of layer numbers.

    Args:
        patient: what is operated on.
        container: path of the stack.
        count: how many layers it has.
        order: its layers afterwards.

    Raises:
        RefusedError: no value gives the stack another number of layers.
    """
    where = counted(patient, container, count)
    part = dict(parts(patient.config))[where.key]
    found = dict([where.setting(part, len(order))])
    if where.index is None:
        found |= _lists(patient, where, part, count, order)
        found |= stage_settings(part, where.key, count, order)
    return found


def counted(patient: Patient, container: str, count: int) -> Counted:
    """Find where the configuration says how many layers a stack has.

    Raises:
        RefusedError: no value does.
    """
    for where, part in _candidates(patient.config, count):
        more = dict([where.setting(part, count + 1)])
        for lists in ({}, _stretched(where, part, count)):
            if _layers_of(patient, {**more, **lists}, container) == count + 1:
                return where
    raise RefusedError(
        f"layers: {container}", "a value of the configuration that counts its layers", "none"
    )


def _candidates(config: Any, count: int) -> Iterator[tuple[Counted, Any]]:
    """Give the values that may count layers, those that are named so first."""
    found = [
        (Counted(key, name, index), part)
        for key, part in parts(config)
        for name, value in vars(part).items()
        if not name.startswith("_")
        for index in _equal_to(value, count)
    ]
    yield from sorted(found, key=lambda pair: not _LAYERED.search(pair[0].name))


def _equal_to(value: Any, count: int) -> Iterator[int | None]:
    if type(value) is int and value == count:
        yield None
    elif isinstance(value, list | tuple):
        yield from (n for n, one in enumerate(value) if type(one) is int and one == count)


def _stretched(where: Counted, part: Any, count: int) -> dict[str, Any]:
    """Give every list of one value for each layer with its last value once more."""
    return {
        joined(where.key, name): [*value, value[-1]]
        for name, value in _of_length(part, count)
        if name != where.name
    }


def _of_length(part: Any, count: int) -> Iterator[tuple[str, list[Any]]]:
    """Give the lists of as many values as there are layers; those of every configuration not."""
    from transformers import PretrainedConfig

    common = {*vars(PretrainedConfig()), *getattr(part, "sub_configs", ())}
    for name, value in vars(part).items():
        listed = isinstance(value, list | tuple) and len(value) == count
        if listed and name not in common and not name.startswith("_"):
            yield name, list(value)


def _lists(patient: Patient, where: Counted, part: Any, count: int, order: Order) -> dict[str, Any]:
    """Give the lists that follow: of a value for each layer, and of layer numbers."""
    found: dict[str, Any] = {}
    for name, value in vars(part).items():
        if _lists_numbers(name, value, count):
            numbers = [p for p, block in enumerate(order) if block.source in value]
            found[joined(where.key, name)] = numbers
    for name, values in _of_length(part, count):
        key = joined(where.key, name)
        named = _LAYERED.search(name) and key not in found
        if named or _is_needed(patient, where, part, name):
            found[key] = [values[block.source] for block in order]
    return found


def _lists_numbers(name: str, value: Any, count: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and not name.startswith(("_", "out_"))
        and _NUMBERS.search(name) is not None
        and all(type(one) is int and 0 <= one < count for one in value)
        and list(value) == sorted(set(value))
    )


def _is_needed(patient: Patient, where: Counted, part: Any, name: str) -> bool:
    """Tell whether one layer more asks for one value more in a list."""
    count = len(getattr(part, name))
    more = {**_stretched(where, part, count), **dict([where.setting(part, count + 1)])}
    del more[joined(where.key, name)]
    return _layers_of(patient, more, None) is None


def _layers_of(patient: Patient, settings: Mapping[str, Any], container: str | None) -> int | None:
    """Give the length of a stack as a changed configuration builds it; None where none does."""
    try:
        model: nn.Module = build(patient, changed(patient.config, settings))
        return len(list(model.get_submodule(container).children())) if container else 0
    except (SurgeryError, AttributeError):
        return None


def check_saved(config: Any, settings: Mapping[str, Any]) -> None:
    """Check that a configuration says the same after it was written and read.

    Args:
        config: the changed configuration.
        settings: what was changed, by dotted key.

    Raises:
        RefusedError: a value is lost or refused.
    """
    try:
        again = type(config).from_dict(config.to_dict())
        lost = [key for key, value in settings.items() if _at(again, key) != _at(config, key)]
    except Exception as error:
        lost = [f"{', '.join(settings)} ({type(error).__name__}: {error})"]
    if lost:
        raise RefusedError(
            "layers: the configuration", "values that are read as they were written",
            f"{', '.join(lost)} changed on the way",
            "say under `config:` how this class writes it",
        )  # fmt: skip


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return list(config) if isinstance(config, tuple) else config
