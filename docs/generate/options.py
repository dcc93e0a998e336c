"""Tables of options out of pydantic models, by their JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from .text import escaped, table

Schema = Mapping[str, Any]
_WORDS = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false",
    "null": "nothing", "object": "mapping", "array": "list",
}  # fmt: skip
_BOUNDS = {
    "minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<",
}  # fmt: skip
_HEADS = ("key", "value", "default", "meaning")


def options(model: type[BaseModel], level: int = 3) -> str:
    """Give the options of a model as a table, followed by one for each form in it.

    Args:
        model: the pydantic model.
        level: depth of the headings of the forms.
    """
    schema = model.model_json_schema(by_alias=True)
    return forms(schema, schema.get("$defs", {}), level)


def forms(schema: Schema, defs: Schema, level: int) -> str:
    """Give the table of a schema and those of the forms that it is made of."""
    parts = [rows(schema, defs)]
    for name, one in defs.items():
        if one.get("properties"):
            head = f"{'#' * level} {title(name)}\n\n{escaped(_first(one))}"
            parts.append(f"{head}\n\n{rows(one, defs)}")
    return "\n\n".join(part for part in parts if part)


def rows(schema: Schema, defs: Schema) -> str:
    """Give one table of the keys of a mapping."""
    required = schema.get("required", ())
    keys = schema.get("properties", {}).items()
    return table(_HEADS, (_row(key, one, key in required, defs) for key, one in keys))


def title(name: str) -> str:
    """Give the name under which a form stands on a page."""
    return f"The form `{name.removesuffix('Form').lstrip('_')}`"


def kind(schema: Schema) -> str:
    """Say in words what a value must be."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2].removesuffix('Form').lstrip('_')}`"
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return " or ".join(map(_code, schema["enum"]))
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(kind(one) for one in schema[word]))
    return _plain(schema)


def _plain(schema: Schema) -> str:
    name = _WORDS.get(str(schema.get("type", "")), "anything")
    if name == "list":
        return _list(schema)
    inner = schema.get("additionalProperties")
    if name == "mapping" and isinstance(inner, Mapping) and inner:
        return f"mapping to {kind(inner)}"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if _said(schema, key)]
    return " ".join([name, ", ".join(bounds)]).strip()


def _said(schema: Schema, key: str) -> bool:
    """Tell whether a bound is there and is not that of the machine's numbers."""
    return key in schema and abs(schema[key]) < 2**53


def _list(schema: Schema) -> str:
    if "prefixItems" in schema:
        return "list of " + ", ".join(kind(one) for one in schema["prefixItems"])
    if not schema.get("items"):
        return "list"
    inner = kind(schema["items"])
    return f"list of ({inner})" if " or " in inner else f"list of {inner}"


def _row(name: str, schema: Schema, required: bool, defs: Schema) -> Sequence[str]:
    form = defs.get(str(schema.get("$ref", "")).rpartition("/")[2], {})
    default = "" if form.get("properties") else _code(schema.get("default"))
    said = schema.get("description") or _first(form)
    return f"`{name}`", kind(schema), "required" if required else default, escaped(said)


def _code(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def _first(schema: Schema) -> str:
    return str(schema.get("description", "")).partition("\n")[0]
