"""The option ``init``: the name of an initialiser, or a mapping of its name and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, ValidationError, WithJsonSchema

from surgery.errors import PluginError, did_you_mean
from surgery.operate.initialiser import Initialiser

if TYPE_CHECKING:
    from pydantic import ValidationInfo

    from surgery.hooks.registry import Registry

USE = "use"
"""Key of the name where ``init`` is a mapping."""

BUILT_IN = ("kaiming", "gaussian", "orthonormal", "orthogonal", "pissa", "olora", "loftq", "eva")
"""Names that this distribution offers."""


def chosen(value: object, info: ValidationInfo) -> object:
    """Give the initialiser that an option names; anything else stays, to be refused.

    Args:
        value: an initialiser, a name, or a mapping with ``use`` and options.
        info: its context is the registry; what is installed if there is none.

    Raises:
        ValueError: nobody offers it, or its options are wrong.
    """
    if isinstance(value, str):
        value = {USE: value}
    if not isinstance(value, Mapping):
        return value
    name = value.get(USE)
    if not isinstance(name, str):
        raise ValueError(f"expected the name of an initialiser under '{USE}', got {name!r}")
    return _made(_offered(name, info.context), {k: v for k, v in value.items() if k != USE})


def _offered(name: str, registry: Registry | None) -> type[Initialiser]:
    if registry is None:
        from surgery.hooks.registry import registry as installed

        registry = installed()
    try:
        return registry.initialiser(name)
    except PluginError as error:
        known = registry.names("initialiser")
        hint = f"; {did_you_mean(name, known)}" if name not in known else f" ({error.found})"
        raise ValueError(f"expected the name of an initialiser, got {name!r}{hint}") from None


def _made(cls: type[Initialiser], options: Mapping[str, Any]) -> Initialiser:
    try:
        return cls.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"expected options that {cls.name} accepts ({', '.join(cls.model_fields) or 'none'}), "
            f"got {key}: {first['msg'][:1].lower() + first['msg'][1:]}"
        ) from None


def _written(value: Initialiser) -> Any:
    """Give the shortest text or mapping that means the same initialiser."""
    options = value.model_dump(mode="json", exclude_defaults=True)
    return {USE: value.name, **options} if options else value.name


_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"enum": list(BUILT_IN)},
        {"type": "string", "pattern": "/"},
        {"type": "object", "properties": {USE: {"type": "string"}}, "required": [USE]},
    ]
}

Choice: TypeAlias = Annotated[
    Initialiser,
    BeforeValidator(chosen),
    PlainSerializer(_written),
    WithJsonSchema(_SCHEMA),
]
"""An initialiser as a recipe writes it."""
