"""Find the weight files of a folder, and check them before any library follows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from surgery.checkpoint.header import once, read_header
from surgery.errors import IntegrityError, PatientError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_INDEX = 100_000_000


def open_checkpoint(folder: Path) -> dict[str, Path]:
    """Give the safetensors files of a model, by file name; every header is read and checked.

    Args:
        folder: a folder with ``model.safetensors``, with an index and its shards, or with a
            single index or safetensors file of any name; or one safetensors file.

    Raises:
        PatientError: the folder is missing, or holds no weights, or weights without an order.
        IntegrityError: a file is damaged, or the index is wrong or leads out of the folder.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix == ".safetensors":
        read_header(folder)
        return {folder.name: folder}
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise PatientError(str(folder), "a folder with weights", found)
    if (folder / SINGLE).exists():
        return _checked(folder, [SINGLE])
    if index := _index_of(folder):
        return _indexed(folder, index)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(names) != 1:
        raise _none(folder, names)
    return _checked(folder, names)


def _checked(folder: Path, names: list[str]) -> dict[str, Path]:
    """Check the headers of some files of a folder."""
    files = {name: file_inside(folder, name) for name in names}
    for path in files.values():
        read_header(path)
    return files


def _none(folder: Path, names: list[str]) -> PatientError:
    """Say what stands in a folder in which no weights can be found."""
    wanted = f"weights, such as {SINGLE}"
    if names:
        found = f"{len(names)} safetensors files without {INDEX}: {_some(names)}"
        return PatientError(str(folder), wanted, found)
    present = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in present if name.endswith(PICKLES)]
    if pickles:
        found = f"only torch pickles, which can run code: {_some(pickles)}"
        return PatientError(str(folder), wanted, found, "save the model anew as safetensors")
    return PatientError(str(folder), wanted, _some(present) if present else "an empty folder")


def _some(names: list[str]) -> str:
    """Write the first names of a list."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _index_of(folder: Path) -> str | None:
    """Name the index of a folder: the usual one, or the only one."""
    found = sorted(path.name for path in folder.glob("*.safetensors.index.json"))
    return INDEX if INDEX in found else found[0] if len(found) == 1 else None


def _indexed(folder: Path, index: str) -> dict[str, Path]:
    """Check an index against the headers of the shards that it names."""
    where = str(folder / index)
    listed = _read_map(file_inside(folder, index))
    files = {name: file_inside(folder, name, index) for name in sorted(set(listed.values()))}
    held = {name: read_header(path).entries for name, path in files.items()}
    for name, file in listed.items():
        if name not in held[file]:
            raise IntegrityError(where, f"tensor {name!a} in {file}", "no such tensor there")
    for file, entries in held.items():
        for name in entries:
            if listed.get(name) != file:
                named = listed.get(name, "no file")
                raise IntegrityError(where, f"{file} for its tensor {name!a}", named)
    return files


def _read_map(path: Path) -> Mapping[str, str]:
    """Read the file name of each tensor from an index."""
    wanted = "JSON with a weight_map of tensor names to file names"
    if path.stat().st_size > MAX_INDEX:
        raise IntegrityError(str(path), f"at most {MAX_INDEX} bytes", f"{path.stat().st_size}")
    try:
        data = json.loads(path.read_text("utf-8"), object_pairs_hook=partial(once, path))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(str(path), wanted, f"'{error}'"[:200]) from None
    listed = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise IntegrityError(str(path), wanted, "none")
    if not all(type(name) is str for name in listed.values()):
        raise IntegrityError(str(path), wanted, "file names that are not text")
    return listed


def file_inside(folder: Path, name: str, index: str = INDEX) -> Path:
    """Demand that a file lies in the folder itself, or in the blobs of the same cached model.

    Args:
        folder: where it must lie.
        name: its name, which may come from a stranger.
        index: the file that names it.

    Raises:
        IntegrityError: the name is no plain one, nothing is there, or a link leads elsewhere.
    """
    if name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise IntegrityError(str(folder / index), "the name of a file in the folder", f"{name!a}")
    path = folder / name
    if not path.is_file():
        raise IntegrityError(str(path), "a file of this name", "nothing there")
    end = path.resolve()
    if not any(end.is_relative_to(place) for place in _allowed(folder.resolve())):
        raise IntegrityError(str(path), "a file in the folder", f"a link to {end}")
    return path


def _allowed(top: Path) -> list[Path]:
    """List where files of a folder may lie: itself, and the blobs of its model in the HF cache."""
    cached = top.parent.name == "snapshots" and top.parent.parent.name.startswith("models--")
    return [top, top.parent.parent / "blobs"] if cached else [top]
