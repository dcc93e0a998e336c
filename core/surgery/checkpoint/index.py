"""Find the weight files of a folder, and check them before any library follows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from surgery.checkpoint.header import read_header
from surgery.checkpoint.reading import File
from surgery.checkpoint.strict import read_json, readable, show, show_path
from surgery.errors import IntegrityError, PatientError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_INDEX = 100_000_000
MAX_FILE_NAME = 255


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
    with readable(folder):
        return _opened(folder)


def _opened(folder: Path) -> dict[str, Path]:
    """Find and check the files of :func:`open_checkpoint`."""
    if folder.is_file() and folder.suffix == ".safetensors":
        read_header(folder)
        return {folder.name: folder}
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise PatientError(show_path(folder), "a folder with weights", found)
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
        return PatientError(show_path(folder), wanted, found)
    present = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in present if name.endswith(PICKLES)]
    if pickles:
        found = f"only torch pickles, which can run code: {_some(pickles)}"
        return PatientError(show_path(folder), wanted, found, "save the model anew as safetensors")
    return PatientError(show_path(folder), wanted, _some(present) if present else "an empty folder")


def _some(names: list[str]) -> str:
    """Write the first names of a list."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(show_path, names[:5])) + more


def _index_of(folder: Path) -> str | None:
    """Name the index of a folder: the usual one, or the only one."""
    found = sorted(path.name for path in folder.glob("*.safetensors.index.json"))
    return INDEX if INDEX in found else found[0] if len(found) == 1 else None


def _indexed(folder: Path, index: str) -> dict[str, Path]:
    """Check an index against the headers of the shards that it names."""
    listed = read_map(file_inside(folder, index))
    files = {name: file_inside(folder, name, index) for name in sorted(set(listed.values()))}
    check_map(show_path(folder / index), listed, files)
    return files


def check_map(where: str, listed: Mapping[str, str], files: Mapping[str, File]) -> None:
    """Demand that an index and the headers of its files say the same.

    Args:
        where: how errors name the index.
        listed: the name of the file of each tensor.
        files: the files by name.

    Raises:
        IntegrityError: a file is damaged, or lacks a tensor, or holds one that is not listed.
    """
    held = {name: read_header(path).entries for name, path in files.items()}
    for name, file in listed.items():
        if name not in held[file]:
            wanted = f"tensor {show(name)} in {file}"
            raise IntegrityError(where, wanted, "no such tensor there")
    for file, entries in held.items():
        for name in entries:
            if listed.get(name) != file:
                named = listed.get(name, "no file")
                raise IntegrityError(where, f"{file} for its tensor {show(name)}", named)


def read_map(path: Path) -> Mapping[str, str]:
    """Read the file name of each tensor from an index.

    Raises:
        IntegrityError: it is no such index.
    """
    wanted = "JSON with a weight_map of tensor names to file names"
    data = read_json(path, MAX_INDEX)
    listed = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise IntegrityError(show_path(path), wanted, "none")
    if not all(type(name) is str for name in listed.values()):
        raise IntegrityError(show_path(path), wanted, "file names that are not text")
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
    check_plain(str(folder / index), name)
    path = folder / name
    with readable(path):
        if not path.is_file():
            raise IntegrityError(show_path(path), "a file of this name", "nothing there")
        if not lies_inside(folder, path):
            found = f"a link to {show_path(path.resolve())}"
            raise IntegrityError(show_path(path), "a file in the folder", found)
    return path


def check_plain(where: str, name: str) -> None:
    """Demand that a name, which may come from a stranger, is one of a file and of no path.

    Raises:
        IntegrityError: it is none.
    """
    if name in ("", ".", "..") or len(name) > MAX_FILE_NAME or set(name) & set("/\\:\0"):
        raise IntegrityError(show_path(where), "the name of a file in the folder", show(name))


def lies_inside(folder: Path, path: Path) -> bool:
    """Tell whether a path ends in a folder, or in the blobs of the same cached model.

    Args:
        folder: where it must end, links followed.
        path: something in the folder, which may be a link or lie behind one.
    """
    end = path.resolve()
    return any(end.is_relative_to(place) for place in _allowed(folder.resolve()))


def is_cached(folder: Path, path: Path) -> bool:
    """Tell whether a path of a folder ends in the blobs of the cached model that the folder is."""
    return any(path.resolve().is_relative_to(place) for place in _allowed(folder.resolve())[1:])


def _allowed(top: Path) -> list[Path]:
    """List where files of a folder may lie: itself, and the blobs of its model in the HF cache."""
    cached = top.parent.name == "snapshots" and top.parent.parent.name.startswith("models--")
    return [top, top.parent.parent / "blobs"] if cached else [top]
