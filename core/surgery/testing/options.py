"""Laws on a surgery's class alone: its options are documented, and its examples can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from surgery.checks.check import Check, failed
from surgery.flow.memory import steps_of
from surgery.hooks.registry import Registry
from surgery.operate.surgery import Surgery
from surgery.recipe.json_schema import RecipeSchema, recipe_schema
from surgery.testing.kept import verdict


def options_are_documented(surgery: type[Surgery], known: Registry) -> Check:
    """Look for options without a description, at any depth, and for those the schema lacks.

    Args:
        surgery: the class.
        known: what the plugins offer.
    """
    found = _schema(known)
    steps = found.schema["$defs"]["Step"].get("oneOf", ())
    own = next((step for step in steps if step["title"] == surgery.name), None)
    if own is None:
        return failed("", f"no plugin offers {surgery.name}, so that no recipe can use it")
    faults = [str(one) for one in found.faults if f"'{surgery.name}'" in one.where]
    options = own["properties"]["with"].get("properties", {})
    wrong = [f"{name} is not in the schema" for name in surgery.model_fields.keys() - {*options}]
    wrong += [] if _summary(surgery) else ["the class has no docstring"]
    undescribed = list(_undescribed(surgery.model_json_schema()))
    return verdict([*wrong, *faults, *undescribed], f"{len(options)} options")


@lru_cache(maxsize=1)
def _schema(known: Registry) -> RecipeSchema:
    return recipe_schema(known)


def _summary(surgery: type[Surgery]) -> str:
    text = vars(surgery).get("__doc__")
    return (text or "").strip().partition("\n")[0]


def _undescribed(schema: dict[str, Any]) -> Iterator[str]:
    """Name the keys that no text describes, of the options and of the forms in them."""
    defs = schema.get("$defs", {})
    for place, one in ({"with": schema} | defs).items():
        for key, value in one.get("properties", {}).items():
            form = defs.get(str(value.get("$ref", "")).rpartition("/")[2], {})
            if not (value.get("description") or form.get("description") or "const" in value):
                yield f"{place}.{key} has no description"


def examples_are_stated(surgery: type[Surgery], known: Registry) -> Check:
    """Read each example, write its options as a journal does, and read them again.

    Args:
        surgery: the class.
        known: what the plugins offer, for validators.
    """
    if not surgery.examples:
        hint = "examples: ClassVar = ({'at': {...}, 'with': {...}},)"
        return failed("", f"nothing says how {surgery.name} is used; write {hint}")
    wrong = []
    for number, example in enumerate(surgery.examples):
        given = steps_of(steps_of_example(surgery, number), known)[-1].surgery
        again = surgery.model_validate_json(given.model_dump_json(), context=known)
        wrong += [] if given == again else [f"examples[{number}] is read as another from a journal"]
        odd = example.keys() - {"at", "with", "after", "overlap", "expect"}
        wrong += [f"examples[{number}] has the key {key!r}" for key in sorted(odd)]
    return verdict(wrong, f"{len(surgery.examples)} examples")


def steps_of_example(surgery: type[Surgery], number: int) -> Sequence[Mapping[str, Any]]:
    """Give the steps of an example as a recipe writes them, those before it too."""
    example = dict(surgery.examples[number])
    return [*example.pop("after", ()), {"use": surgery.name, **example}]
