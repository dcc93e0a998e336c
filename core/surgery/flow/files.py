"""What stands in an output folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.checkpoint.digests import Progress, digest_files
from surgery.checkpoint.remote import look_up
from surgery.checkpoint.strict import read_text
from surgery.checkpoint.urls import checked_url, local_path
from surgery.errors import IntegrityError
from surgery.hooks.registry import Registry, registry
from surgery.operate.journal import Journal, read_journal
from surgery.operate.source import Source

CHANGED = "changed.safetensors"
"""The tensors that the base does not hold."""

OURS = "surgery"
"""The folder beside a whole model with what only this library reads."""

STRUCTURE = f"{OURS}/base"
"""The configuration and tokenizer of the base, beside a whole model that has others."""

JOURNAL = "surgery.json"
"""The journal."""

RECIPE = "recipe.yaml"
"""The recipe, with everything filled in."""


def journal_in(folder: Path) -> Journal:
    """Read the journal of an output.

    Raises:
        IntegrityError: there is none, or it is damaged.
    """
    return read_journal(read_text(folder / JOURNAL), str(folder / JOURNAL))


def source_from(name: str, options: Mapping[str, Any], folder: Path, known: Registry) -> Source:
    """Give the source that a journal names.

    Args:
        name: the source's name.
        options: its options.
        folder: the checkpoint, for errors.
        known: the installed plugins.

    Raises:
        PluginError: nobody offers the source.
        IntegrityError: it does not take these options.
    """
    try:
        return known.source(name).model_validate(dict(options))
    except ValueError as error:
        found = " ".join(str(error).split())[:200]
        where, instead = f"{folder / JOURNAL}: base", "write the checkpoint anew"
        raise IntegrityError(where, f"options of the source {name!a}", found, instead) from None


def has_journal(url: str) -> bool:
    """Tell whether a folder behind a URL is an output."""
    path = local_path(url)
    if path is not None:
        return (path / JOURNAL).is_file()
    return bool(look_up(checked_url(url), [JOURNAL]))


def changed_in(folder: Path, journal: Journal) -> Path:
    """Give the file of the tensors that neither the base nor a whole model beside it holds."""
    return folder / OURS / CHANGED if journal.whole else folder / CHANGED


def base_of(
    source: Source, progress: Progress | None = None, known: Registry | None = None
) -> dict[str, Any]:
    """Describe a base, so that it can be built again and recognised.

    A file that was not written to since it was last hashed is not hashed again.

    Args:
        source: where it is.
        progress: called with each number of bytes that was hashed, from several threads.
        known: what the plugins offer; what is installed if not given.
    """
    name, version = (known or registry()).owner("source", type(source))
    return {
        "source": source.name,
        "plugin": {"name": name, "version": version},
        "options": source.model_dump(mode="json"),
        "digest": {"files": digest_files(source.weights(), reread=False, progress=progress)},
    }
