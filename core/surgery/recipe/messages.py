"""Turn pydantic's errors into mistakes with a place, and words that help."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from surgery.errors import RecipeError, did_you_mean
from surgery.recipe.nodes import Location, Mark, Node, mistake, nearest, plain, shown
from surgery.recipe.words import Schema, choices_of, described, properties_of, schemas_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from surgery.hooks.registry import Registry

Problem: TypeAlias = tuple[Mark, RecipeError]

_M = TypeVar("_M", bound=BaseModel)
_GOT = re.compile(r"expected (?P<wanted>.+), got (?P<found>.+)", re.DOTALL)


def checked(
    model: type[_M], node: Node, at: Location = (), registry: Registry | None = None
) -> tuple[_M | None, list[Problem]]:
    """Validate a tree against a model, as strictly as JSON: ``true`` is not 1, nor is ``1.0``.

    Args:
        model: the pydantic model.
        node: the tree.
        at: where the tree hangs in the recipe, for errors.
        registry: what plugins offer, which validators find as ``info.context``.

    Returns:
        The validated value or None, and all mistakes with their places.
    """
    from pydantic_core import PydanticSerializationError, to_json

    try:
        text = to_json(plain(node), inf_nan_mode="constants")
        return model.model_validate_json(text, context=registry), []
    except ValidationError as error:
        return None, list(_Report(model, node, at).problems(error))
    except (PydanticSerializationError, UnicodeError) as error:
        return None, [
            (node.mark, mistake(node.mark, at, "values that JSON can hold", _line(error)))
        ]
    except Exception as error:
        found = f"{type(error).__name__}: {_line(error)}"
        wanted = f"values that {model.__name__} can check"
        return None, [(node.mark, mistake(node.mark, at, wanted, found))]


@dataclass(frozen=True)
class _Report:
    """Write the mistakes of one validation."""

    model: type[BaseModel]
    node: Node
    at: Location

    def problems(self, error: ValidationError) -> Iterator[Problem]:
        details = error.errors(include_url=False)
        places = [nearest(self.node, detail["loc"])[1] for detail in details]
        seen = set()
        for place, detail in zip(places, details, strict=True):
            kind = _kind(detail)
            if (place, kind) not in seen and (kind or not _explained(place, places, details)):
                yield self._problem(detail)
            seen.add((place, kind))

    @cached_property
    def schema(self) -> Schema:
        """The model's JSON Schema; empty where it has none."""
        try:
            return self.model.model_json_schema(by_alias=True)
        except Exception:
            return {}

    def _problem(self, detail: ErrorDetails) -> Problem:
        location = detail["loc"]
        node, taken = nearest(self.node, location)
        if detail["type"] == "missing":
            return self._missing(node, taken, str(location[-1]))
        if detail["type"] == "extra_forbidden":
            return self._unknown(node, taken)
        wanted, found = self._words(detail, taken, shown(plain(node)))
        hint = _hint(plain(node), schemas_at(self.schema, taken))
        return node.mark, mistake(node.mark, (*self.at, *taken), wanted, found, hint)

    def _missing(self, node: Node, taken: Location, name: str) -> Problem:
        kind = described(schemas_at(self.schema, (*taken, name)))
        wanted = f"the key '{name}'" + (f" with {kind}" if kind else "")
        return node.mark, mistake(node.mark, (*self.at, *taken), wanted, "no such key")

    def _unknown(self, node: Node, taken: Location) -> Problem:
        known = properties_of(schemas_at(self.schema, taken[:-1]))
        mark, name = node.key or node.mark, str(taken[-1])
        hint = did_you_mean(name, known)
        return mark, mistake(mark, (*self.at, *taken), "a known key", repr(name), hint)

    def _words(self, detail: ErrorDetails, taken: Location, found: str) -> tuple[str, str]:
        """Give what was wanted and what was found."""
        said, kind = _said(detail), detail["type"]
        if kind == "finite_number":
            return "a finite number", found
        if kind in ("value_error", "assertion_error"):
            told = _GOT.fullmatch(said)
            if told:
                return told["wanted"], told["found"]
            return "a value that is allowed", f"{found} ({said})"
        return described(schemas_at(self.schema, taken)) or said[:1].lower() + said[1:], found


def _kind(detail: ErrorDetails) -> str:
    """Tell mistakes of one value apart; empty where the value merely has the wrong form."""
    if detail["type"] == "missing":
        return f"missing {detail['loc'][-1]}"
    said = detail["type"] in ("extra_forbidden", "value_error", "assertion_error")
    return detail["type"] if said else ""


def _explained(
    place: Location, places: Sequence[Location], details: Sequence[ErrorDetails]
) -> bool:
    """Tell whether another branch of an alternative says better what is wrong with a value."""
    pairs = zip(places, details, strict=True)
    return any(
        other[: len(place)] == place and (len(other) > len(place) or _kind(detail))
        for other, detail in pairs
    )


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")


def _said(detail: ErrorDetails) -> str:
    text = detail["msg"]
    for prefix in ("Value error, ", "Assertion failed, "):
        text = text.removeprefix(prefix)
    return text


def _hint(value: Any, schemas: Sequence[Schema]) -> str:
    choices = [choice for choice in choices_of(schemas) if isinstance(choice, str)]
    if isinstance(value, str) and choices:
        return did_you_mean(value, choices)
    kinds = {schema.get("type") for schema in schemas}
    if isinstance(value, str) and kinds & {"integer", "number"} and "string" not in kinds:
        return "remove the quotes" if re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", value) else ""
    if isinstance(value, float) and "integer" in kinds and value.is_integer():
        return f"write {int(value)}"
    if isinstance(value, bool | int | float) and kinds == {"string"}:
        return "put it in quotes"
    return ""
