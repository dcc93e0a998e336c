"""Digest files, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import Any, TypeAlias

from surgery.checkpoint.reading import File, buffered, open_raw, size_in_bytes
from surgery.checkpoint.remembered import is_settled, recall, remember, state_of
from surgery.checkpoint.remote import RemoteFile
from surgery.checkpoint.strict import readable

Progress: TypeAlias = Callable[[int], object]
"""Called with each number of bytes that was hashed."""

_CHUNK = 1 << 20
_THREADS = 4


def digest_files(
    files: Mapping[str, File],
    *,
    fast: bool = False,
    reread: bool = True,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Give the size in bytes and the sha256 in hexadecimal of files.

    Args:
        files: the files, by the name under which each stands in the answer.
        fast: give sizes only; the key ``sha256`` is absent then.
        reread: False to take what is remembered of a file that was not written to since.
        progress: called with each number of bytes that was hashed, from several threads.

    A file behind a URL is not read for this. Its digest is what its server says of it, ``url`` and
    ``mark``; the sha256 of its ``header`` if it is of safetensors; and the sha256 of its bytes
    only where a manifest beside it says one.

    Returns:
        For each name, in the order given: ``{"size": n, "sha256": hex}``.

    Raises:
        IntegrityError: a file is missing or cannot be read.
        PatientError: a server fails.
    """
    if fast:
        return {name: {"size": _size(path)} for name, path in files.items()}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        found = pool.map(partial(_of, reread=reread, progress=progress), files.values())
        return dict(zip(files, found, strict=True))


def changed_files(
    files: Mapping[str, File],
    known: Mapping[str, Mapping[str, Any]],
    *,
    fast: bool = False,
    reread: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """Name the files that are not those that digests were made of, missing and extra ones too.

    Args:
        files: the files by name.
        known: what :func:`digest_files` gave.
        fast: compare sizes alone.
        reread: False to take what is remembered of a file that was not written to since.
        progress: called with each number of bytes that was hashed, from several threads.

    Raises:
        IntegrityError: a file cannot be read.
        PatientError: a server fails.
    """
    both = sorted(files.keys() & known.keys())
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        how: dict[str, Any] = {"fast": fast, "reread": reread, "progress": progress}
        same = pool.map(lambda name: is_same(files[name], known[name], **how), both)
        kept = {name for name, holds in zip(both, same, strict=True) if holds}
    return sorted((files.keys() | known.keys()) - kept)


def is_same(
    file: File,
    known: Mapping[str, Any],
    *,
    fast: bool = False,
    reread: bool = True,
    progress: Progress | None = None,
) -> bool:
    """Tell whether a file is the one that a digest was made of, as far as that digest tells.

    A file behind the URL of the digest is the same where its server says so, and its header is;
    one that lies elsewhere now is read, whole where the digest has a sha256 of all bytes.

    Args:
        file: the file.
        known: what :func:`digest_files` gave.
        fast: compare sizes alone.
        reread: False to take what is remembered of a file that was not written to since.
        progress: called with each number of bytes that was hashed.

    Raises:
        IntegrityError: the file is missing or cannot be read.
        PatientError: a server fails.
    """
    if fast or known.get("size") != _size(file):
        return known.get("size") == _size(file)
    if isinstance(file, RemoteFile) and file.mark and known.get("url") == file.url:
        return bool(known.get("mark") == file.mark) and _same_header(file, known)
    if "sha256" in known:
        return bool(known["sha256"] == _sha256(file, reread, progress))
    return "header" in known and _same_header(file, known)


def _same_header(file: File, known: Mapping[str, Any]) -> bool:
    return "header" not in known or known["header"] == _header(file)


def _size(file: File) -> int:
    """Give the size of a file in bytes."""
    with readable(str(file)):
        return size_in_bytes(file)


def _header(file: File) -> str:
    """Give the sha256 of the header of a safetensors file, its length included."""
    with readable(str(file)), buffered(file) as stream:
        length = stream.read(8)
        return sha256(length + stream.read(int.from_bytes(length, "little"))).hexdigest()


def _said(file: RemoteFile) -> dict[str, Any]:
    """Give the digest of a file behind a URL, which is not read but for its header."""
    found: dict[str, Any] = {"size": file.size, "url": file.url}
    found |= {"mark": file.mark} if file.mark else {}
    found |= {"sha256": file.sha256} if file.sha256 else {}
    return found | ({"header": _header(file)} if file.suffix == ".safetensors" else {})


def _of(file: File, reread: bool, progress: Progress | None) -> dict[str, Any]:
    if isinstance(file, RemoteFile):
        return _said(file)
    return {"size": _size(file), "sha256": _sha256(file, reread, progress)}


def _sha256(file: File, reread: bool, progress: Progress | None) -> str:
    """Give the sha256 of a file, read or remembered, and remember it."""
    if isinstance(file, RemoteFile):
        return _hashed(file, progress)
    with readable(str(file)):
        state = state_of(file)
        if not reread and (known := recall(state)):
            return known
        settled = is_settled(state)
        found = _hashed(file, progress)
        if settled and state_of(file) == state:
            remember(state, found)
    return found


def _hashed(file: File, progress: Progress | None) -> str:
    """Give the sha256 of what one file holds."""
    sink, chunk = sha256(), memoryview(bytearray(_CHUNK))
    with readable(str(file)), open_raw(file) as stream:
        while count := stream.readinto(chunk):  # type: ignore[attr-defined]
            sink.update(chunk[:count])
            if progress:
                progress(count)
    return sink.hexdigest()
