"""Make the relative paths among options absolute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from surgery.recipe.nodes import Node
from surgery.recipe.recipe import resolve


def rooted(node: Node, folder: Path, model: type[BaseModel] | None = None) -> Node:
    """Make every text that begins with ``./`` or ``../`` a path below a folder, at any depth.

    Args:
        node: options by name.
        folder: what they are relative to.
        model: what the options are for; its fields that are paths are paths however they begin.
    """
    if not isinstance(node.value, Mapping):
        return node
    paths = {name for name in node.value if model is not None and _is_path(model, name)}
    inner = {k: _rooted(one, folder, k in paths) for k, one in node.value.items()}
    return replace(node, value=inner)


def _rooted(node: Node, folder: Path, is_path: bool) -> Node:
    if isinstance(node.value, str) and (is_path or _is_dotted(node.value)):
        return replace(node, value=str(resolve(node.value, folder)))
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(_rooted(one, folder, is_path) for one in node.value))
    return rooted(node, folder)


def _is_path(model: type[BaseModel], name: str) -> bool:
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    return Path in (annotation, *get_args(annotation))


def _is_dotted(text: str) -> bool:
    return text in (".", "..") or text.startswith(("./", "../", "~/"))
