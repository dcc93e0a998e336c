"""How many bytes a verification hashes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.checkpoint.manifest import MANIFEST, read_manifest
from surgery.errors import SurgeryError
from surgery.flow.files import journal_in


def bytes_to_hash(folder: Path) -> int | None:
    """Give the bytes of an output and of its base; None where that is not known.

    Args:
        folder: the output.
    """
    try:
        files = read_manifest(folder / MANIFEST)
        base = journal_in(folder).base.get("digest", {}).get("files", {})
    except SurgeryError:
        return None
    return _bytes(files) + _bytes(base)


def _bytes(files: Mapping[str, Mapping[str, Any]]) -> int:
    sizes = (one.get("size") for one in files.values() if "sha256" in one)
    return sum(size for size in sizes if isinstance(size, int))
