"""Assemble one JSON Schema of recipes from the core's forms and all plugins' options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from surgery.errors import PluginError
from surgery.hooks.offers import Offer
from surgery.hooks.registry import Registry
from surgery.recipe.schema import LAYERS, RecipeForm, StepForm
from surgery.recipe.train_form import TrainForm

_TITLE = "A recipe for model surgery."
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class RecipeSchema:
    """A JSON Schema, and what could not be put into it.

    Attributes:
        schema: the schema, as JSON values.
        faults: offers whose options have no JSON Schema; any options pass there.
    """

    schema: dict[str, Any]
    faults: tuple[PluginError, ...] = ()


@dataclass
class _Parts:
    """Collect the schemas of offers and their definitions."""

    defs: dict[str, Any] = field(default_factory=dict)
    faults: list[PluginError] = field(default_factory=list)


def recipe_schema(registry: Registry) -> RecipeSchema:
    """Give the JSON Schema of recipes that use what the registry offers.

    Names that clash are left out, as no recipe can use them.

    Args:
        registry: what plugins offer.
    """
    schema = RecipeForm.model_json_schema(by_alias=True)
    step = StepForm.model_json_schema(by_alias=True)
    parts = _Parts({**schema.pop("$defs"), **step.pop("$defs")})
    steps = [_step(step, offer, parts) for offer in _usable(registry, "surgery")]
    sources = [_chosen("source", offer, parts) for offer in _usable(registry, "source")]
    parts.defs["Step"] = {"oneOf": steps} if steps else step
    parts.defs["Patient"] = {"oneOf": sources} if sources else {"type": "object"}
    _narrow(parts.defs["AtForm"], registry.roles())
    properties = schema["properties"]
    properties["patient"] = {"anyOf": [{"$ref": "#/$defs/Patient"}, {"type": "null"}]}
    properties["surgeries"]["items"] = {"$ref": "#/$defs/Step"}
    properties["train"] = _train(registry, parts)
    properties["surgeries+"] = {
        "type": "array",
        "items": {"$ref": "#/$defs/Step"},
        "description": "Surgeries to append to those of the recipe that is extended.",
    }
    properties["extends"] = {
        "type": "string",
        "description": "A recipe to build on: a file below this one's folder, or a shipped name.",
    }
    required = schema.pop("required")
    schema["anyOf"] = [{"required": required}, {"required": ["extends"]}]
    ordered = {
        "$schema": DIALECT,
        **schema,
        "title": "Recipe",
        "description": _TITLE,
        "$defs": parts.defs,
    }
    return RecipeSchema(ordered, tuple(parts.faults))


def _usable(registry: Registry, kind: str) -> Iterable[Offer]:
    for name in registry.names(kind):
        try:
            yield registry.offer(kind, name)
        except PluginError:
            continue


def _step(form: Mapping[str, Any], offer: Offer, parts: _Parts) -> dict[str, Any]:
    options = _options(offer, parts)
    use = {"const": offer.name, "description": _summary(offer.value)}
    properties = {**form["properties"], "use": use, "with": options}
    required = ["use", "with"] if options.get("required") else ["use"]
    return {**form, "title": offer.name, "properties": properties, "required": required}


def _train(registry: Registry, parts: _Parts) -> dict[str, Any]:
    """Give the schema of ``train:``; nothing is required, since a base recipe may say it."""
    schema = TrainForm.model_json_schema(by_alias=True)
    parts.defs = {**schema.pop("$defs"), **parts.defs}
    schema.pop("required", None)
    for name, kind in (("Objective", "objective"), ("Data", "data"), ("Engine", "engine")):
        offers = [_chosen("use", offer, parts) for offer in _usable(registry, kind)]
        parts.defs[name] = {"oneOf": offers} if offers else {"$ref": "#/$defs/Use"}
    fields = schema["properties"]
    for field_name in fields:
        name = field_name.title() if field_name in ("objective", "engine") else "Data"
        fields[field_name] = _pointing(fields[field_name], name)
    return schema


def _pointing(schema: Any, name: str) -> Any:
    """Point to a definition wherever a schema points to that of any choice."""
    if isinstance(schema, dict):
        pairs = ((key, _pointing(value, name)) for key, value in schema.items())
        return {k: f"#/$defs/{name}" if v == "#/$defs/Use" else v for k, v in pairs}
    return [_pointing(one, name) for one in schema] if isinstance(schema, list) else schema


def _chosen(key: str, offer: Offer, parts: _Parts) -> dict[str, Any]:
    """Give the schema of a choice whose options stand beside its name."""
    options = _options(offer, parts)
    choice = {"const": offer.name, "description": _summary(offer.value)}
    return {
        **options,
        "title": offer.name,
        "properties": {key: choice, **options.get("properties", {})},
        "required": [key, *options.get("required", ())],
    }


def _options(offer: Offer, parts: _Parts) -> dict[str, Any]:
    """Give the schema of an offer's options; its definitions get a prefix of their own."""
    prefix = f"{offer.kind} {offer.name} "
    escaped = prefix.replace("~", "~0").replace("/", "~1").replace(" ", "%20")
    model: type[BaseModel] = offer.value
    try:
        schema = model.model_json_schema(
            by_alias=True, ref_template="#/$defs/" + escaped + "{model}"
        )
    except Exception as error:
        parts.faults.append(_no_schema(offer, error))
        return {"type": "object"}
    parts.defs.update({prefix + name: one for name, one in schema.pop("$defs", {}).items()})
    return {**schema, "additionalProperties": False}


def _no_schema(offer: Offer, error: Exception) -> PluginError:
    found = str(error).splitlines()[0] if str(error) else type(error).__name__
    where = f"plugin {' '.join(offer.plugin)}: {offer.kind} '{offer.name}'"
    return PluginError(where, "options that JSON Schema can describe", found)


def _narrow(at: dict[str, Any], roles: Iterable[str]) -> None:
    """Say in the selector's schema what only code says otherwise: roles, layers, one key."""
    at["minProperties"] = 1
    for branch in _texts(at["properties"]["role"]):
        branch["enum"] = list(roles)
    for branch in _texts(at["properties"]["layers"]):
        branch["pattern"] = f"^{LAYERS}$"


def _texts(schema: Any) -> Iterable[dict[str, Any]]:
    """Give every part of a schema that stands for text."""
    if isinstance(schema, dict):
        if schema.get("type") == "string":
            yield schema
        for inner in schema.values():
            yield from _texts(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _texts(inner)


def _summary(value: type[Any]) -> str:
    return (value.__doc__ or "").strip().partition("\n")[0]
