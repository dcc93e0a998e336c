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
from surgery.checkpoint.index import is_cached
from surgery.checkpoint.strict import ANEW, parse_json, read_text, readable, show_path
from surgery.errors import IntegrityError, Problems, SurgeryError

__all__ = ["MANIFEST", "check_manifest", "digest_files", "read_manifest", "write_manifest"]

MANIFEST = "surgery.manifest.json"
MAX_MANIFEST = 25_000_000
_VERSION = 1
_HUB = (".gitattributes", ".gitignore", ".DS_Store", ".cache/", ".git/", ".huggingface/")
_TEXTS = ("README", "LICENSE", "LICENCE", "NOTICE", "CITATION", "MODEL_CARD")


def write_manifest(folder: Path, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the manifest of a folder over all its files; call it last.

    Args:
        folder: the folder.
        known: size and digest of files that need not be read again, such as links.

    Raises:
        IntegrityError: the folder holds something that is no plain file.
        OSError: the manifest cannot be written.
    """
    files = _files(folder)
    odd = [name for name, path in files.items() if not path.is_file()]
    if odd:
        raise IntegrityError(str(folder / odd[0]), "a plain file", "a link or a device")
    known = known or {}
    fresh = digest_files({name: path for name, path in files.items() if name not in known})
    text = _seal({"manifest": _VERSION, "files": {**known, **fresh}})
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_manifest(
    folder: Path, *, fast: bool = False, progress: Progress | None = None
) -> tuple[str, ...]:
    """Check every file of a folder against its manifest.

    Args:
        folder: a folder that :func:`write_manifest` has seen.
        fast: compare sizes and the headers of safetensors files only; changed bytes go unseen.
        progress: called with each number of bytes that was hashed, from several threads.

    Returns:
        The files that the manifest does not list and that no loader reads, such as what a
        download adds, by their path in the folder.

    Raises:
        IntegrityError: the manifest is missing or damaged.
        Problems: files are missing, extra, changed or links; an IntegrityError for each.
    """
    wanted = read_manifest(folder / MANIFEST)
    with readable(folder):
        found = _files(folder)
        notes = [
            n for n, p in found.items() if n not in wanted and _is_note(n) and _plain(folder, p)
        ]
        kept = {name: path for name, path in found.items() if name not in notes}
        problems = [*_strays(folder, wanted, kept), *_changes(folder, wanted, kept, fast, progress)]
    if problems:
        raise Problems(str(folder), problems)
    return tuple(notes)


def _files(folder: Path) -> dict[str, Path]:
    """List everything under a folder that is no folder, by its path in it; not the manifest."""
    found = {}
    for root, folders, names in os.walk(folder, onerror=_unread):
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in (*names, *links):
            path = Path(root, name)
            found[path.relative_to(folder).as_posix()] = path
    found.pop(MANIFEST, None)
    return dict(sorted(found.items()))


def _unread(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed."""
    raise error


def _is_note(name: str) -> bool:
    """Tell whether a file is one that hubs and their downloads add, and that no loader reads."""
    hub = any(name == known or (known[-1] == "/" and name.startswith(known)) for known in _HUB)
    stem, _, suffix = name.upper().partition(".")
    return hub or (stem in _TEXTS and suffix in ("", "MD", "TXT", "RST"))


def _plain(folder: Path, path: Path) -> bool:
    """Tell whether a file stands where it is, or in the blobs of the cached model."""
    return path.is_file() and (not path.is_symlink() or is_cached(folder, path))


def _strays(
    folder: Path, wanted: Mapping[str, Any], found: Mapping[str, Path]
) -> Iterator[SurgeryError]:
    """Report files that are missing, and files that are extra."""
    for name in sorted(wanted.keys() - found.keys()):
        yield _wrong(folder / name, "a file of the manifest", "nothing there")
    for name in sorted(found.keys() - wanted.keys()):
        path = show_path(folder / name)
        yield IntegrityError(
            path, "only files of the manifest", "an extra file", "move it elsewhere"
        )


def _wrong(path: Path, wanted: str, found: str) -> IntegrityError:
    """Give the error of a file that is not what the manifest says."""
    return IntegrityError(show_path(path), wanted, found, ANEW)


def _changes(
    folder: Path,
    wanted: Mapping[str, Any],
    found: Mapping[str, Path],
    fast: bool,
    progress: Progress | None,
) -> Iterator[SurgeryError]:
    """Report files whose size, header or bytes are not what the manifest says."""
    plain = {n: p for n, p in found.items() if n in wanted and _plain(folder, p)}
    for name in sorted((wanted.keys() & found.keys()) - plain.keys()):
        yield _wrong(folder / name, "a plain file", "a link or a device")
    same = {n: p for n, p in plain.items() if p.stat().st_size == wanted[n]["size"]}
    for name in sorted(plain.keys() - same.keys()):
        size = f"{plain[name].stat().st_size} bytes"
        yield _wrong(folder / name, f"{wanted[name]['size']} bytes", size)
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
            yield _wrong(folder / name, right, wrong)


def read_manifest(path: Path) -> Mapping[str, Any]:
    """Read size and sha256 of each file from a manifest, by the file's path in the folder.

    Every byte of the manifest is checked, since only one text has its seal.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    with readable(path):
        there = path.is_file()
    if not there:
        instead = "was the folder written by surgery?"
        raise IntegrityError(show_path(path), "a manifest", "nothing there", instead)
    text = read_text(path, MAX_MANIFEST)
    data = parse_json(text, path)
    if not _is_sealed(data, text) or not _lists_files(data):
        found = "another text, another version, or a damaged file"
        raise _wrong(path, f"a sealed manifest of version {_VERSION}", found)
    files: Mapping[str, Any] = data["files"]
    return files


def _is_sealed(data: Any, text: str) -> bool:
    """Tell whether a text is the one that its own digest stands for."""
    if not isinstance(data, dict):
        return False
    return _seal({name: value for name, value in data.items() if name != "sha256"}) == text


def _lists_files(data: Mapping[str, Any]) -> bool:
    """Tell whether a manifest is of this version, and gives size and digest of each file."""
    files = data.get("files")
    if data.get("manifest") != _VERSION or not isinstance(files, dict):
        return False
    return all(
        isinstance(item, dict)
        and {name: type(value) for name, value in item.items()} == {"size": int, "sha256": str}
        for item in files.values()
    )


def _seal(data: Mapping[str, Any]) -> str:
    """Write a manifest in the one way that its own digest stands for."""
    digest = sha256(_write(data).encode()).hexdigest()
    return _write({**data, "sha256": digest}) + "\n"


def _write(data: Mapping[str, Any]) -> str:
    """Write JSON with one line for each value, its keys sorted."""
    return json.dumps(data, indent=1, sort_keys=True)
