"""Find every size of a connector: metadata, shapes, recipe; say where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from surgery.errors import IntegrityError, RecipeError, RefusedError, did_you_mean
from surgery_plugins.families.hosts import Fit
from surgery_plugins.surgeries.resampler.infer import Inferred
from surgery_plugins.surgeries.resampler.kind import Kind, Value

Found = dict[str, tuple[Value, str]]
"""Sizes: value, and where it came from."""


@dataclass(frozen=True)
class Sources:
    """Where sizes may come from, strongest first.

    Attributes:
        metadata: what metadata beside the connector's own weights say.
        shapes: what the shapes of these weights tell.
        recipe: what the recipe says.
        there: what the connector in the model is made with, where none is loaded and it is of
            the same kind.
        fit: what the model around it needs.
    """

    metadata: Found = field(default_factory=dict)
    shapes: Inferred | None = None
    recipe: Mapping[str, Value] = field(default_factory=dict)
    there: Found = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)


def settle(kind: Kind, sources: Sources) -> Found:
    """Find every size of a connector.

    Metadata come first, then shapes, then the recipe, then the connector that is there, and the
    widths of both ends from the model. Where two of them disagree nothing is chosen.

    Args:
        kind: what is to be built.
        sources: where to look.

    Returns:
        All sizes of the kind, each with where it came from.

    Raises:
        IntegrityError: metadata and shapes disagree.
        RecipeError: the recipe disagrees with either, or a size is unknown, or not allowed.
        RefusedError: the ends do not fit the model.
    """
    _check_names(kind, sources.recipe)
    found = dict(sources.metadata)
    for name, (value, tensor) in sources.shapes.sizes.items() if sources.shapes else ():
        _add_shape(found, name, value, tensor)
    for name, value in sources.recipe.items():
        _add_recipe(found, name, value)
    for name, told in sources.there.items():
        found.setdefault(name, told)
    _add_ends(found, sources.fit)
    for name, value in kind.unused({n: v for n, (v, _) in found.items()}).items():
        found.setdefault(name, (value, "no effect beside the others"))
    _check_all(kind, found, sources.shapes)
    return {name: found[name] for name in kind.all_sizes}


def _add_shape(found: Found, name: str, value: Value, tensor: str) -> None:
    why = f"shape of {tensor}"
    if name not in found:
        found[name] = (value, why)
    elif found[name][0] != value:
        said, where = found[name]
        raise IntegrityError(
            f"{where}: {name}",
            f"{value}, which the {why} shows",
            f"{said}",
            "mend the metadata, or write `metadata: false` to go by the shapes",
        )


def _add_recipe(found: Found, name: str, value: Value) -> None:
    if name not in found:
        found[name] = (value, "recipe")
    elif found[name][0] != value:
        told, why = found[name]
        raise RecipeError(f"sizes.{name}", f"{told} ({why})", f"{value}", "leave it out")


def _add_ends(found: Found, fit: Fit) -> None:
    for name, told in (("in_features", fit.in_features), ("out_features", fit.out_features)):
        if told is None:
            continue
        if name not in found:
            found[name] = told
        elif found[name][0] != told[0]:
            value, why = found[name]
            end = "vision tower" if name == "in_features" else "language model"
            raise RefusedError(
                f"resampler.{name}",
                f"{told[0]}, the width of the {end} ({told[1]})",
                f"{value} ({why})",
                "these weights belong to another model"
                if why != "recipe"
                else "leave it out of `sizes:`",
            )


def _check_names(kind: Kind, recipe: Mapping[str, Value]) -> None:
    for name, value in recipe.items():
        if name == "expand":
            hidden = recipe.get("hidden")
            whole = isinstance(hidden, int) and isinstance(value, int | float)
            hint = f"write d_inner: {int(float(value) * int(hidden or 0))}" if whole else ""
            raise RecipeError(
                "sizes.expand", "the whole number d_inner", f"the factor {value}",
                hint or "write d_inner: expand times hidden, rounded down",
            )  # fmt: skip
        if name not in kind.all_sizes:
            hint = did_you_mean(name, kind.all_sizes)
            raise RecipeError(f"sizes.{name}", f"a size of {kind.name}", "none of that name", hint)


def _check_all(kind: Kind, found: Found, shapes: Inferred | None) -> None:
    missing = [name for name in kind.all_sizes if name not in found]
    if missing:
        left = shapes.candidates if shapes else {}
        lines = [f"{n} ({kind.all_sizes[n].text}{_left(left.get(n))})" for n in missing]
        raise RecipeError(
            f"resampler.sizes of {kind.name}",
            "a value for every size",
            f"nothing that says {'; '.join(lines)}",
            "add `sizes: {" + ", ".join(f"{n}: ..." for n in missing) + "}`",
        )
    for name, size in kind.all_sizes.items():
        value, why = found[name]
        wrong = size.wrong(value)
        if wrong and why != "no effect beside the others":
            raise RecipeError(f"sizes.{name} ({why})", wrong, repr(value), size.text)


def _left(candidates: str | None) -> str:
    return f"; the shapes leave {candidates}" if candidates else ""
