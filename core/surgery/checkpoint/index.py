"""Find the weight files of a folder, and check them before any library follows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.checkpoint.header import read_header
from surgery.errors import IntegrityError, PatientError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def open_checkpoint(folder: Path) -> dict[str, Path]:
    """Give the safetensors files of a folder, by file name; every header and index is checked.

    Raises:
        PatientError: the folder is missing, or holds no safetensors.
        IntegrityError: a file is damaged, or the index leads out of the folder or is wrong.
    """
    if not folder.is_dir():
        raise PatientError(str(folder), "a folder", "a file" if folder.exists() else "nothing there")
    if (folder / INDEX).exists():
        return _indexed(folder)
    names = [SINGLE] if (folder / SINGLE).exists() else sorted(
        path.name for path in folder.glob("*.safetensors")
    )  # fmt: skip
    if len(names) != 1:
        raise _none(folder, names)
    _inside(folder, names[0])
    read_header(folder / names[0])
    return {names[0]: folder / names[0]}


def _none(folder: Path, names: list[str]) -> PatientError:
    if names:
        return PatientError(
            str(folder), f"one safetensors file, or {INDEX}", f"{len(names)} files without an index"
        )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return PatientError(
            str(folder),
            "weights in safetensors",
            f"only torch pickles ({', '.join(pickles[:3])}), which can run code",
            "save the model anew with safe_serialization=True",
        )
    found = "an empty folder" if not any(folder.iterdir()) else "none"
    return PatientError(str(folder), f"weights, such as {SINGLE}", found)


def _indexed(folder: Path) -> dict[str, Path]:
    where = folder / INDEX
    try:
        data: Any = json.loads(where.read_text("utf-8"))
        listed = data["weight_map"]
        named = {str(name): str(file) for name, file in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise IntegrityError(str(where), "an index with a weight_map", repr(error)[:200]) from None
    files = {name: _inside(folder, name) for name in sorted(set(named.values()))}
    held = {name: set(read_header(path).entries) for name, path in files.items()}
    wrong = [name for name, file in named.items() if name not in held[file]]
    extra = [n for file, names in held.items() for n in names if named.get(n) != file]
    if wrong or extra:
        first = f"{wrong[0]!r} is not in {named[wrong[0]]}" if wrong else f"{extra[0]!r} is not listed"
        raise IntegrityError(str(where), "every tensor in the file that the index names", first)
    return files


def _inside(folder: Path, name: str) -> Path:
    """Check that a file lies in the folder itself, or in the blobs of the same cached model."""
    path = folder / name
    if Path(name).name != name or name in (".", "..") or "\\" in name:
        raise IntegrityError(str(folder / INDEX), "the name of a file in the folder", repr(name))
    if not path.is_file():
        raise IntegrityError(str(path), "a file that the index names", "nothing there")
    top = folder.resolve()
    allowed = [top, *(parent / "blobs" for parent in top.parents if parent.name.startswith("models--"))]
    if not any(path.resolve().is_relative_to(place) for place in allowed):
        raise IntegrityError(str(path), "a file in the folder", f"a link to {path.resolve()}")
    return path
