"""The lock of a recipe: all that its result depends on, and what of it has drifted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from platform import python_version
from typing import Any

from surgery.checkpoint.digests import digest_files
from surgery.checkpoint.strict import parse_json, read_text
from surgery.errors import DriftError, IntegrityError, Problems
from surgery.hooks.registry import Registry
from surgery.recipe.migrate_file import write_text
from surgery.recipe.named_files import named_files
from surgery.recipe.recipe import Recipe

FORMAT = 1
"""Version of the format of locks."""

OWN = "model-surgery"

LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "peft", "accelerate",
    "huggingface-hub", "pillow", "pydantic", "pyyaml",
)  # fmt: skip
"""What reads, computes or stores values, beside the plugins and what these require."""

_EVERYWHERE = ("family", "initialiser", "attachment")
_MAX_BYTES = 100_000_000
_Progress = Callable[[int], object]


def lock_file(recipe: Recipe) -> Path:
    """Give where the lock of a recipe lies: beside it, ``recipe.yaml.lock``."""
    return recipe.folder / f"{Path(recipe.name).name}.lock"


def lock_of(recipe: Recipe, known: Registry, progress: _Progress | None = None) -> dict[str, Any]:
    """Look at everything that a recipe's result depends on.

    Args:
        recipe: the recipe.
        known: what the plugins offer.
        progress: called with each number of bytes that was hashed, from several threads.

    Returns:
        As JSON values: the recipe's own values; versions of Python, libraries and plugins;
        digests of the base's files, and of the files that options of surgeries and of a training
        name.

    Raises:
        SurgeryError: the base or a file cannot be read.
    """
    values = _values(recipe)
    plugins = _plugins(recipe, known)
    return {
        "lock": FORMAT,
        "recipe": {"sha256": _digest(values), "values": values},
        "versions": _versions(plugins),
        "plugins": plugins,
        "base": digest_files(_base(recipe), progress=progress),
        "data": {
            place: digest_files(files, progress=progress)
            for place, files in named_files(recipe).items()
        },
    }


def write_lock(recipe: Recipe, known: Registry, progress: _Progress | None = None) -> Path:
    """Write the lock of a recipe beside it, in one step.

    Raises:
        SurgeryError: something cannot be read, or the lock cannot be written.
    """
    file = lock_file(recipe)
    text = json.dumps(lock_of(recipe, known, progress), indent=1, sort_keys=True)
    write_text(file, text + "\n")
    return file


def read_lock(file: Path) -> dict[str, Any]:
    """Read a lock.

    Raises:
        DriftError: there is none.
        IntegrityError: it is damaged, or of another version.
    """
    hint = "run `surgery lock` on the recipe"
    if not file.is_file():
        raise DriftError(str(file), "a lock beside the recipe", "none", hint)
    data = parse_json(read_text(file, _MAX_BYTES), file)
    parts = ("recipe", "versions", "plugins", "base", "data")
    whole = isinstance(data, dict) and all(isinstance(data.get(part), dict) for part in parts)
    if not whole or data.get("lock") != FORMAT:
        raise IntegrityError(str(file), f"a lock of version {FORMAT}", "another file", hint)
    if data["recipe"].get("sha256") != _digest(data["recipe"].get("values")):
        found = "values that its digest does not stand for"
        raise IntegrityError(f"{file}: recipe", "the values as written", found, hint)
    return dict(data)


def check_lock(recipe: Recipe, known: Registry, progress: _Progress | None = None) -> Path:
    """Refuse a recipe whose result depends on something that is not as in its lock.

    Returns:
        The lock.

    Raises:
        DriftError: there is no lock.
        Problems: a DriftError for each thing that drifted, from what to what.
        SurgeryError: the lock is damaged, or something cannot be read.
    """
    file = lock_file(recipe)
    before = read_lock(file)
    found = [
        DriftError(f"{file.name}: {name}", old, new, f"run: surgery lock {recipe.name}")
        for name, old, new in drift(before, lock_of(recipe, known, progress))
    ]
    if found:
        raise Problems(str(file), found)
    return file


def drift(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Compare two locks.

    Returns:
        Name, and what it was and is, of each thing that differs, in the order of names.
    """
    old, new = dict(_leaves(_told(before))), dict(_leaves(_told(after)))
    names = sorted(old.keys() | new.keys())
    both = ((name, old.get(name, "nothing"), new.get(name, "nothing")) for name in names)
    return [(name, one, other) for name, one, other in both if one != other]


def _told(lock: Mapping[str, Any]) -> dict[str, Any]:
    return {**lock, "recipe": lock["recipe"]["values"]}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Give each single value by its dotted name; a digest is one value, and so is nothing."""
    if isinstance(value, Mapping) and isinstance(value.get("size"), int):
        yield name, _shown(value)
    elif isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _leaves(one, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value:
        for number, one in enumerate(value):
            yield from _leaves(one, f"{name}[{number}]")
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def _shown(digest: Mapping[str, Any]) -> str:
    rest = {key: one for key, one in digest.items() if key not in ("size", "sha256")}
    said = f"sha256 {str(digest.get('sha256', 'unknown'))[:16]} of {digest['size']} bytes"
    return f"{said} {json.dumps(rest, sort_keys=True)}" if rest else said


def _values(recipe: Recipe) -> dict[str, Any]:
    """Give what a recipe says, but for where its result is written."""
    values: dict[str, Any] = json.loads(json.dumps(recipe.written))
    output = values.get("output")
    if isinstance(output, dict):
        output.pop("path", None)
    return values


def _digest(values: Any) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _plugins(recipe: Recipe, known: Registry) -> dict[str, str]:
    """Give the versions of the plugins that may take part, by distribution."""
    used = {("surgery", step.surgery.name) for step in recipe.steps}
    if recipe.patient is not None:
        used.add(("source", recipe.patient.name))
    used |= {("exporter", name) for name in (recipe.output.also if recipe.output else ())}
    if recipe.train is not None:
        used.add(("objective", recipe.train.objective.name))
        found = [*recipe.train.data, recipe.train.evaluation]
        used |= {("data", one.name) for one in found if one is not None}
    return dict(
        offer.plugin
        for offer in known.offers
        if offer.kind in _EVERYWHERE or (offer.kind, offer.name) in used
    )


def _versions(plugins: Mapping[str, str]) -> dict[str, str]:
    """Give the versions of Python, of the libraries, and of what plugins require."""
    names = {OWN, *LIBRARIES, *(name for one in plugins for name in _required(one))}
    found = {name: _version(name) for name in sorted(names)}
    return {"python": python_version(), **{n: v for n, v in found.items() if v is not None}}


def _required(plugin: str) -> set[str]:
    """Name what a stranger's plugin requires, as it is installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        listed = [] if plugin == OWN else [Requirement(text) for text in requires(plugin) or ()]
    except (PackageNotFoundError, ValueError):
        return set()
    needed = [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return {canonicalize_name(one.name) for one in needed}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _base(recipe: Recipe) -> dict[str, Any]:
    """Give all files of a base: weights, configuration and tokenizer."""
    if recipe.patient is None:
        return {}
    files: dict[str, Any] = {**recipe.patient.weights(), **recipe.patient.companions()}
    return dict(sorted(files.items()))
