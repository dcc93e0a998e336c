"""Say what the weight files of a folder hold; only their headers are read."""

from __future__ import annotations

from pathlib import Path

from surgery.checkpoint.header import TensorEntry, read_header
from surgery.checkpoint.index import open_checkpoint
from surgery.errors import SurgeryError
from surgery.report.plan import human_bytes


def stored_note(folder: Path) -> str | None:
    """Give how many tensors a folder's safetensors files hold, and how large they are.

    Args:
        folder: any path.

    Returns:
        A line; what is wrong with the files, where something is; None where there are none.
    """
    if not folder.is_dir() or not any(folder.glob("*.safetensors*")):
        return None
    try:
        files = list(open_checkpoint(folder).values())
        entries = [entry for file in files for entry in read_header(file).entries.values()]
    except SurgeryError as error:
        return f"stored: {error}"
    kinds = ", ".join(sorted({entry.dtype for entry in entries}))
    size = human_bytes(sum(map(_bytes, entries)))
    counts = f"{len(entries)} tensors in {len(files)} {'file' if len(files) == 1 else 'files'}"
    return f"stored: {counts}, {size}, {kinds or 'nothing'}"


def _bytes(entry: TensorEntry) -> int:
    return entry.end - entry.begin
