"""Options that name an offer of a plugin: its name alone, or a mapping of name and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from surgery.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationInfo

    from surgery.hooks.registry import Registry

USE = "use"
"""Key of the name where the option is a mapping."""


def chosen(kind: str) -> Callable[[object, ValidationInfo], object]:
    """Give the validator of an option that names an offer.

    Args:
        kind: the kind of offer, as in ``Registry.offer``.

    Returns:
        A function of the option and of pydantic's information, whose context is the registry
        (what is installed if there is none). It gives the object of the class that is named;
        anything that is no name or mapping stays, to be refused. It raises a ValueError where
        nobody offers the name, or its options are wrong.
    """

    def validate(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            value = {USE: value}
        if not isinstance(value, Mapping):
            return value
        name = value.get(USE)
        if not isinstance(name, str):
            raise ValueError(f"expected the name of an {kind} under '{USE}', got {name!r}")
        options = {key: option for key, option in value.items() if key != USE}
        return _made(_offered(kind, name, info.context), options)

    return validate


def written(value: Any) -> Any:
    """Give the shortest text or mapping that means the same object."""
    options = value.model_dump(mode="json", exclude_defaults=True)
    return {USE: value.name, **options} if options else value.name


def schema(names: tuple[str, ...]) -> dict[str, Any]:
    """Give the JSON schema of such an option.

    Args:
        names: what this distribution offers.
    """
    mapping = {"type": "object", "properties": {USE: {"type": "string"}}, "required": [USE]}
    return {"anyOf": [{"enum": list(names)}, {"type": "string", "pattern": "/"}, mapping]}


def _offered(kind: str, name: str, registry: Registry | None) -> type[BaseModel]:
    if registry is None:
        from surgery.hooks.registry import registry as installed

        registry = installed()
    try:
        found: type[BaseModel] = registry.offer(kind, name).value
    except PluginError as error:
        known = registry.names(kind)
        hint = f"; {did_you_mean(name, known)}" if name not in known else f" ({error.found})"
        raise ValueError(f"expected the name of an {kind}, got {name!r}{hint}") from None
    return found


def _made(cls: Any, options: Mapping[str, Any]) -> Any:
    try:
        return cls.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(cls.model_fields) or "none"
        raise ValueError(
            f"expected options that {cls.name} accepts ({known}), "
            f"got {key}: {first['msg'][:1].lower() + first['msg'][1:]}"
        ) from None
