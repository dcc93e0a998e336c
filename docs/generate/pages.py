"""All pages of the reference, by their place below ``docs``."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel

from surgery.hooks.offers import KINDS, Offer
from surgery.hooks.registry import Registry, registry
from surgery.recipe.schema import CheckForm, RecipeForm, StepForm
from surgery.recipe.train_form import TrainForm

from . import benchmarks, commands, contracts
from .options import forms, options, rows
from .text import docstring, escaped, summary, table

FOLDER = "reference"


def pages() -> dict[str, str]:
    """Give the text of each page of the reference, in the order of the navigation.

    Returns:
        By path below ``docs``; the title is the first line.
    """
    known = registry()
    found = {"recipe": _recipe(), "commands": commands.page(), "hooks": contracts.page()}
    found |= {name_of(kind): _kind(kind, known) for kind in KINDS if known.names(kind)}
    found["roles"] = _roles(known)
    found["benchmarks"] = benchmarks.page()
    return {f"{FOLDER}/{name}.md": text for name, text in found.items()}


def name_of(kind: str) -> str:
    """Give the file's name of the page on one kind of offers."""
    return KINDS[kind].hook.removeprefix("surgery_").replace("_", "-")


def _recipe() -> str:
    parts = [f"# Recipe\n\n{_RECIPE}"]
    seen: dict[str, Any] = {}
    for name, model in _FORMS.items():
        schema = model.model_json_schema(by_alias=True)
        seen |= schema.get("$defs", {})
        parts.append(f"## {name}\n\n{summary(model)}\n\n{rows(schema, schema.get('$defs', {}))}")
    used = {name: one for name, one in seen.items() if name != CheckForm.__name__}
    return "\n\n".join([*parts, forms({}, used, 2)])


_RECIPE = (
    "A recipe is a YAML file. Unknown keys are mistakes, and all mistakes of a file are shown at "
    "once, with line and column. `surgery schema > recipe.schema.json` writes all of this as a "
    "JSON Schema, with which editors complete and check. `patient:`, `use:`, `objective:`, "
    "`data:` and `engine:` name what plugins offer; their options are on the pages of each kind. "
    "Beside the keys below, `extends: FILE` builds on another recipe, and `surgeries+:` appends "
    "to its surgeries."
)
_FORMS: dict[str, type[BaseModel]] = {
    "The file": RecipeForm, "An entry of surgeries": StepForm, "check": CheckForm,
    "train": TrainForm,
}  # fmt: skip


def _kind(kind: str, known: Registry) -> str:
    word = KINDS[kind].word
    plural = word if word.endswith("ies") else _plural(word)
    offers = [known.offer(kind, name) for name in known.names(kind)]
    intro = f"What the installed plugins offer; a plugin adds more with [`{KINDS[kind].hook}`]"
    intro += f"(hooks.md#{KINDS[kind].hook})."
    return "\n\n".join([f"# {plural.capitalize()}", intro, *map(_offer, offers)])


def _plural(word: str) -> str:
    return word[:-1] + "ies" if word.endswith("y") else word + "s"


def _offer(offer: Offer) -> str:
    value = offer.value
    cls = value if inspect.isclass(value) else type(value)
    parts = [f"## {offer.name}", docstring(cls).partition("\n\n**Attributes**")[0]]
    if issubclass(cls, BaseModel):
        parts.append(options(cls) if cls.model_fields else "It has no options.")
    return "\n\n".join(parts)


def _roles(known: Registry) -> str:
    families = [known.offer("family", name) for name in known.names("family")]
    owners = {role: one.name for one in families for role in one.value.roles}
    listed = ((f"`{role}`", owners.get(role, "")) for role in known.roles())
    intro = escaped("What `at: {role: ...}` may name; how roles are found is told under")
    return f"# Roles\n\n{intro} [Anatomy](../anatomy.md).\n\n" + table(("role", "family"), listed)
