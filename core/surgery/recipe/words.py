"""Put a JSON Schema into words: ``an integer > 0``, ``'a' or 'b'``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from surgery.recipe.nodes import Location

Schema = Mapping[str, Any]

_NOUNS = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "keys and values",
}
_BOUNDS = (
    ("exclusiveMinimum", ">"),
    ("minimum", ">="),
    ("exclusiveMaximum", "<"),
    ("maximum", "<="),
)
_LENGTHS = (("minLength", "characters"), ("minItems", "entries"), ("minProperties", "keys"))


def schemas_at(schema: Schema, location: Location) -> list[Schema]:
    """Follow a location through a schema; alternatives give several results.

    Args:
        schema: a JSON Schema with its ``$defs``.
        location: keys and positions; parts that name a branch of an alternative are skipped.
    """
    defs = schema.get("$defs", {})
    found = list(_branches(schema, defs))
    for part in location:
        below = [child for one in found for child in _children(one, part, defs)]
        found = below or found
    return found


def properties_of(schemas: Iterable[Schema]) -> set[str]:
    """Give the keys that any of some schemas knows."""
    return {name for schema in schemas for name in schema.get("properties", {})}


def choices_of(schemas: Iterable[Schema]) -> list[Any]:
    """Give the values that some schemas list."""
    return [
        value
        for schema in schemas
        for value in (schema.get("enum") or ([schema["const"]] if "const" in schema else []))
    ]


def described(schemas: Sequence[Schema]) -> str:
    """Put some alternatives into words; empty where nothing is known."""
    listed = [repr(value) for value in choices_of(schemas)]
    nouns = [_described(schema) for schema in schemas]
    return joined([*listed, *filter(None, nouns)])


def joined(words: Iterable[str]) -> str:
    """Join words as ``a, b or c``, each once."""
    once = list(dict.fromkeys(words))
    return " or ".join(filter(None, (", ".join(once[:-1]), *once[-1:])))


def _described(schema: Schema) -> str:
    noun = _NOUNS.get(str(schema.get("type")), "")
    if not noun or "enum" in schema or "const" in schema:
        return ""
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS if key in schema]
    lengths = [f"with at least {schema[k]} {unit}" for k, unit in _LENGTHS if schema.get(k, 0) > 1]
    return " ".join([_not_empty(noun, schema), " and ".join(bounds), *lengths]).strip()


def _not_empty(noun: str, schema: Schema) -> str:
    if any(schema.get(key) == 1 for key, _ in _LENGTHS):
        return {"text": "text that is not empty", "a list": "a list that is not empty"}.get(
            noun, noun
        )
    return noun


def _branches(schema: Schema, defs: Mapping[str, Schema]) -> Iterator[Schema]:
    """Give the schemas that a schema stands for, references and alternatives resolved."""
    if "$ref" in schema:
        yield from _branches(defs[str(schema["$ref"]).rpartition("/")[2]], defs)
        return
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    if not inner:
        if schema.get("type") != "null":
            yield schema
        return
    for one in inner:
        yield from _branches(one, defs)


def _children(schema: Schema, part: str | int, defs: Mapping[str, Schema]) -> Iterator[Schema]:
    if isinstance(part, int):
        prefix = schema.get("prefixItems", ())
        below = prefix[part] if part < len(prefix) else schema.get("items")
    else:
        below = schema.get("properties", {}).get(part, schema.get("additionalProperties"))
    if isinstance(below, Mapping):
        yield from _branches(below, defs)
