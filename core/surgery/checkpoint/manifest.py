"""Write and check the manifest: the size and the digest of every file of an output."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from surgery.checkpoint.digests import Progress, digest_files
from surgery.checkpoint.header import read_header
from surgery.errors import IntegrityError, Problems, SurgeryError

__all__ = ["MANIFEST", "check_manifest", "digest_files", "write_manifest"]

MANIFEST = "surgery.manifest.json"
MAX_MANIFEST = 25_000_000
_VERSION = 1
_ANEW = "get the folder again from where it came, or write it anew"


def write_manifest(folder: Path) -> None:
    """Write the manifest of a folder over all its files; call it last.

    Raises:
        IntegrityError: the folder holds something that is no plain file.
        OSError: the manifest cannot be written.
    """
    files = _files(folder)
    odd = [name for name, path in files.items() if not path.is_file()]
    if odd:
        raise IntegrityError(str(folder / odd[0]), "a plain file", "a link or a device")
    text = _seal({"manifest": _VERSION, "files": digest_files(files)})
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_manifest(folder: Path, *, fast: bool = False, progress: Progress | None = None) -> None:
    """Check every file of a folder against its manifest.

    Args:
        folder: a folder that :func:`write_manifest` has seen.
        fast: compare sizes and the headers of safetensors files only; changed bytes go unseen.
        progress: called with each number of bytes that was hashed, from several threads.

    Raises:
        IntegrityError: the manifest is missing or damaged.
        Problems: files are missing, extra or changed; an IntegrityError for each.
    """
    wanted = _read(folder / MANIFEST)
    found = _files(folder)
    problems = [*_strays(folder, wanted, found), *_changes(folder, wanted, found, fast, progress)]
    if problems:
        raise Problems(str(folder), problems)


def _files(folder: Path) -> dict[str, Path]:
    """List everything under a folder that is no folder, by its path in it; not the manifest."""
    found = {}
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in (*names, *links):
            path = Path(root, name)
            found[path.relative_to(folder).as_posix()] = path
    found.pop(MANIFEST, None)
    return dict(sorted(found.items()))


def _strays(
    folder: Path, wanted: Mapping[str, Any], found: Mapping[str, Path]
) -> Iterator[SurgeryError]:
    """Report files that are missing, and files that are extra."""
    for name in sorted(wanted.keys() - found.keys()):
        yield IntegrityError(str(folder / name), "a file of the manifest", "nothing there", _ANEW)
    for name in sorted(found.keys() - wanted.keys()):
        yield IntegrityError(
            str(folder / name), "only files of the manifest", "an extra file", "move it elsewhere"
        )


def _changes(
    folder: Path,
    wanted: Mapping[str, Any],
    found: Mapping[str, Path],
    fast: bool,
    progress: Progress | None,
) -> Iterator[SurgeryError]:
    """Report files whose size, header or bytes are not what the manifest says."""
    plain = {name: path for name, path in found.items() if name in wanted and path.is_file()}
    for name in sorted((wanted.keys() & found.keys()) - plain.keys()):
        yield IntegrityError(str(folder / name), "a plain file", "a link or a device", _ANEW)
    same = {n: p for n, p in plain.items() if p.stat().st_size == wanted[n]["size"]}
    for name in sorted(plain.keys() - same.keys()):
        size = f"{plain[name].stat().st_size} bytes"
        yield IntegrityError(str(folder / name), f"{wanted[name]['size']} bytes", size, _ANEW)
    yield from _bad_headers(same) if fast else _bad_bytes(folder, wanted, same, progress)


def _bad_headers(files: Mapping[str, Path]) -> Iterator[SurgeryError]:
    """Report safetensors files with a damaged header."""
    for name, path in files.items():
        if name.endswith(".safetensors"):
            try:
                read_header(path)
            except IntegrityError as error:
                yield error


def _bad_bytes(
    folder: Path,
    wanted: Mapping[str, Any],
    files: Mapping[str, Path],
    progress: Progress | None,
) -> Iterator[SurgeryError]:
    """Report files of the right size with other bytes."""
    for name, digest in digest_files(files, progress=progress).items():
        if digest["sha256"] != wanted[name]["sha256"]:
            right, wrong = f"sha256 {wanted[name]['sha256']}", f"sha256 {digest['sha256']}"
            yield IntegrityError(str(folder / name), right, wrong, _ANEW)


def _read(path: Path) -> Mapping[str, Any]:
    """Read a manifest; every byte of it is checked, since only one text has its seal."""
    if not path.is_file():
        raise IntegrityError(
            str(path), "a manifest", "nothing there", "was the folder written by surgery?"
        )
    text = path.read_bytes()[: MAX_MANIFEST + 1].decode("utf-8", "replace")
    try:
        data = json.loads(text)
        sealed = data.pop("sha256") and _seal(data) == text
        files = {name: _fields(item) for name, item in data["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sealed, files = False, {}
    if not sealed or data["manifest"] != _VERSION:
        found = "another text, another version, or a damaged file"
        raise IntegrityError(str(path), f"a sealed manifest of version {_VERSION}", found, _ANEW)
    return files


def _fields(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the size and the digest of one file in a manifest."""
    return {"size": item["size"], "sha256": item["sha256"]}


def _seal(data: Mapping[str, Any]) -> str:
    """Write a manifest in the one way that its own digest stands for."""
    digest = sha256(_write(data).encode()).hexdigest()
    return _write({**data, "sha256": digest}) + "\n"


def _write(data: Mapping[str, Any]) -> str:
    """Write JSON with one line for each value, its keys sorted."""
    return json.dumps(data, indent=1, sort_keys=True)
