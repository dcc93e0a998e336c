"""Open a recipe and what it extends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from surgery.errors import RecipeError
from surgery.recipe.migrate import check_version
from surgery.recipe.nodes import Mark, Node, mistake, node_of, plain, shown
from surgery.recipe.shipped import find_shipped, shipped
from surgery.recipe.yaml import Document, read_file, read_yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

MAX_EXTENDS = 8
"""How many recipes may stand on one another."""

_Problem: TypeAlias = tuple[Mark, RecipeError]


@dataclass(frozen=True, slots=True)
class Opened:
    """A recipe's tree with everything that it extends.

    Attributes:
        root: the merged tree.
        source: how errors name the recipe.
        folder: what relative paths in it refer to.
        problems: mistakes found so far, with their places.
    """

    root: Node
    source: str
    folder: Path
    problems: tuple[_Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a recipe lies: a file below ``top``, or a shipped one (``top`` is None)."""

    file: Traversable | Path
    source: str
    top: Path | None


def open_recipe(recipe: str | Path | Mapping[str, Any]) -> Opened:
    """Open a recipe.

    Args:
        recipe: a file; the name of a shipped recipe; a text of several lines; or plain data.
            A text without line breaks is a file if there is one, else a shipped recipe.

    Raises:
        RecipeError: there is no such recipe, or it cannot be read as YAML.
    """
    here = Path.cwd()
    given = _Place(here / "recipe", "recipe", here)
    if isinstance(recipe, Mapping):
        return _with_bases(Document(node_of(recipe)), given, here)
    if isinstance(recipe, str) and "\n" in recipe:
        return _with_bases(read_yaml(recipe, "recipe"), given, here)
    try:
        if isinstance(recipe, str) and _is_name(recipe) and not Path(recipe).is_file():
            return _open_shipped(recipe)
        return _open_file(Path(recipe))
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(shown(str(recipe)), "a recipe file", str(error)) from None


def _open_file(path: Path) -> Opened:
    file = path.resolve()
    place = _Place(file, str(path), file.parent)
    return _with_bases(read_file(path, str(path)), place, file.parent)


def _open_shipped(name: str) -> Opened:
    if name not in shipped():
        near = sorted(str(path) for path in Path().glob("*.yaml"))[:5]
        hint = f"recipes here: {', '.join(near)}" if near else ""
        try:
            find_shipped(name)
        except RecipeError as error:
            hint = "; ".join(part for part in (error.instead, hint) if part)
        raise RecipeError(name, "a recipe file or the name of a shipped recipe", "neither", hint)
    place = _Place(find_shipped(name), f"{name}.yaml", None)
    return _with_bases(_read(place), place, Path.cwd())


def _is_name(text: str) -> bool:
    return not any(mark in text for mark in "/\\") and not text.endswith((".yaml", ".yml"))


def _read(place: _Place) -> Document:
    if isinstance(place.file, Path):
        return read_file(place.file, place.source)
    return read_yaml(place.file.read_bytes(), place.source)


def _with_bases(document: Document, place: _Place, folder: Path) -> Opened:
    root, problems = _merged(document, place, ())
    return Opened(root, place.source, folder, tuple(problems))


def _merged(
    document: Document, place: _Place, above: tuple[str, ...]
) -> tuple[Node, list[_Problem]]:
    root = _checked(document, place)
    problems = list(document.problems)
    named = root.children.get("extends")
    own = replace(root, value={k: v for k, v in root.children.items() if k != "extends"})
    if named is None:
        return merge(Node({}, root.mark), own, problems), problems
    base = _base(named, place, (*above, str(place.file)))
    below, found = _merged(_read(base), base, (*above, str(place.file)))
    problems += found
    return merge(below, own, problems), problems


def _checked(document: Document, place: _Place) -> Node:
    root = document.root
    hint = "begin with `recipe: 1`"
    if root is None or root.value is None:
        raise RecipeError(place.source, "a recipe", "an empty file", hint)
    if not isinstance(root.value, Mapping):
        found = shown(plain(root))
        raise mistake(root.mark, (), "keys and values", found, hint)
    check_version(root, place.source)
    return root


def _base(named: Node, place: _Place, above: tuple[str, ...]) -> _Place:
    name = named.value
    if not isinstance(name, str) or not name:
        raise mistake(named.mark, ("extends",), "the name of a file", shown(plain(named)))
    base = _place_of(name, named.mark, place)
    if str(base.file) in above:
        raise mistake(
            named.mark, ("extends",), "a recipe that does not extend this one", repr(name)
        )
    if len(above) > MAX_EXTENDS:
        raise mistake(named.mark, ("extends",), f"at most {MAX_EXTENDS} recipes in a row", "more")
    return base


def _place_of(name: str, mark: Mark, place: _Place) -> _Place:
    if _is_name(name):
        return _Place(find_shipped(name, f"{mark}: extends"), f"{name}.yaml", None)
    wanted = "a path below the recipe's folder, or the name of a shipped recipe"
    if place.top is None or PurePosixPath(name).is_absolute() or Path(name).is_absolute():
        raise mistake(mark, ("extends",), wanted, repr(name))
    file = (Path(str(place.file)).parent / name).resolve()
    if not file.is_relative_to(place.top):
        raise mistake(mark, ("extends",), wanted, f"{name!r}, which leads out of {place.top}")
    if not file.is_file():
        raise mistake(mark, ("extends",), "a recipe file", f"no file {name!r}")
    return _Place(file, str(file.relative_to(place.top)), place.top)


def merge(base: Node, over: Node, problems: list[_Problem]) -> Node:
    """Lay one tree over another: mappings key by key, everything else replaced.

    A key that ends in ``+`` appends its list to the base's list of that name.

    Args:
        base: the tree below.
        over: the tree that wins.
        problems: mistakes are appended here, with their places.
    """
    if not isinstance(over.value, Mapping):
        return over
    below = dict(base.children)
    for key, child in over.value.items():
        name = key.removesuffix("+")
        if name == key:
            below[key] = merge(below.get(key, Node({}, child.mark)), child, problems)
            continue
        old = below.get(name, Node((), child.mark, child.key))
        if isinstance(child.value, tuple) and isinstance(old.value, tuple):
            below[name] = replace(child, value=(*old.value, *child.value))
        else:
            problems.append((child.mark, mistake(child.mark, (key,), "a list", "another value")))
    return replace(over, value=below)
