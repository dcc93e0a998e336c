"""Fetch what transformers reads of a model behind a URL."""

from __future__ import annotations

from pathlib import Path

from surgery.checkpoint.base import beside_weights, whole_model
from surgery.checkpoint.fetch import Snapshot
from surgery.checkpoint.urls import is_url
from surgery_plugins.sources.strict import ADAPTER
from surgery_plugins.sources.transformers import COMPANIONS

LOOKED_FOR = (*COMPANIONS, ADAPTER)
"""Files that are looked for beside the weights where a protocol cannot list them."""


def fetch_beside(found: Snapshot, *, own_code: bool = False) -> Path:
    """Fetch configuration, tokenizer and processor; give their folder, which has no weights.

    Args:
        found: the files behind the URL.
        own_code: True to fetch the model's own code too.
    """
    names = beside_weights(found)
    if own_code:
        names += [name for name in found.files if name.endswith(".py")]
    return Snapshot(found.url, {name: found.files[name] for name in names}).fetch(names)


def fetch_whole(found: Snapshot) -> Path:
    """Fetch a model whole; give its folder.

    Raises:
        PatientError: there are no weights.
        IntegrityError: a file is damaged.
    """
    whole = whole_model(found, beside_weights(found))
    return whole.fetch(whole.files)


def is_id(path: str) -> bool:
    """Tell whether a path is the id of a model of a hub: no URL, and nothing of this machine."""
    here = path.startswith((".", "/", "~")) or path.count("/") != 1
    return not (here or is_url(path) or Path(path).exists())
