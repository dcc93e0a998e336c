"""Fetch files behind URLs into a cache that is never stale."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from uuid import uuid4

from surgery.checkpoint.remote import RemoteFile, listing, look_up
from surgery.checkpoint.strict import read_json, show
from surgery.checkpoint.urls import checked_url, is_url, local_path
from surgery.errors import IntegrityError, PatientError

CACHE = "SURGERY_CACHE"
"""Environment variable: the folder of the cache; ``~/.cache/surgery`` by default."""

_MANIFEST = "surgery.manifest.json"

UNFINISHED = "surgery.unfinished.json"
"""The file that stands in an output as long as it is not complete; it lists what is sent."""


def cache_folder() -> Path:
    """Give the folder in which fetched files are kept; it can be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(base) / "surgery").absolute()


@dataclass(frozen=True)
class Snapshot:
    """The files of a folder behind a URL, as they were when they were looked up.

    Attributes:
        url: the folder.
        files: its files, by their path in it.
    """

    url: str
    files: Mapping[str, RemoteFile]

    @cached_property
    def folder(self) -> Path:
        """The folder of this machine that files are fetched to; another one for other files."""
        known = sorted(self.files.items())
        said = "\n".join(f"{name} {file.mark or uuid4().hex}" for name, file in known)
        key = sha256(f"{self.url}\n{said}".encode()).hexdigest()[:32]
        return cache_folder() / "fetched" / key / (PurePosixPath(self.url).name or "files")

    def fetch(self, names: Iterable[str]) -> Path:
        """Fetch some of the files, as far as they are not here yet; give their folder.

        Raises:
            PatientError: the server fails, or a file changed since it was looked up.
        """
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.parent / "lock"):
            for part in self.folder.rglob(".*.part"):
                part.unlink()
            for name in names:
                target = self.folder / name
                if not target.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.files[name].fetch(target)
        return self.folder


def fetched(place: str | Path) -> Path:
    """Give a folder of this machine: the one that is meant, or a copy of what a URL holds.

    Args:
        place: a path, or the URL of a folder that this library wrote; of another folder only
            where the protocol can list it.

    Raises:
        PatientError: nothing is there, or the server fails.
        IntegrityError: a manifest names a file outside its folder.
    """
    if not isinstance(place, str) or not is_url(place):
        return Path(place).expanduser()
    url = checked_url(place)
    if (local := local_path(url)) is not None:
        return local
    found = listing(url, deep=True)
    files = _by_manifest(url) if found is None else found
    refuse_unfinished(url, files)
    for name in files:
        _check_inside(url, name)
    return Snapshot(url, files).fetch(files)


def refuse_unfinished(url: str, names: Iterable[str]) -> None:
    """Refuse a folder whose upload never ended.

    Raises:
        IntegrityError: the mark stands there.
    """
    if UNFINISHED in names:
        raise IntegrityError(
            f"{url}/{UNFINISHED}",
            "a complete folder",
            "the mark of an upload that goes on, or that died",
            "wait for it, or write the output anew: the next run replaces what is there",
        )


def _by_manifest(url: str) -> dict[str, RemoteFile]:
    """Look up the files that a manifest lists."""
    manifest = look_up(url, [_MANIFEST, UNFINISHED])
    refuse_unfinished(url, manifest)
    if not manifest:
        found = "none, and this protocol cannot list files"
        raise PatientError(url, f"a folder with {_MANIFEST}", found, "fetch the folder yourself")
    folder = Snapshot(url, manifest).fetch(manifest)
    data = read_json(folder / _MANIFEST)
    named = data.get("files") if isinstance(data, dict) else None
    if not isinstance(named, dict):
        raise IntegrityError(f"{url}/{_MANIFEST}", "a manifest that lists files", "none")
    for name in named:
        _check_inside(url, name)
    return {**look_up(url, named), **manifest}


def _check_inside(url: str, name: str) -> None:
    """Refuse the name of a file that would leave its folder."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or set(name) & set("\\:\0"):
        raise IntegrityError(url, "names of files in the folder", show(name))
