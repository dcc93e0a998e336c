"""Files behind URLs, through fsspec: looked up by name, and read in stretches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import RawIOBase
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from surgery.errors import MissingExtraError, PatientError, SurgeryError

STRETCH = 1 << 24
"""Bytes that are asked for at a time."""

TRIES = 3
"""How often a server is asked before it counts as failing."""

_UNLISTED = ("http", "https")
_MARKS = ("ETag", "etag", "Content-MD5", "Digest", "Last-Modified", "mtime", "created")
_MISSING = (403, 404, 410)
"""What servers answer where nothing is; 403 is what object stores say that keep their lists."""

_PAUSE = 0.2
_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL, as it was when it was looked up.

    Attributes:
        url: where.
        size: its size in bytes.
        mark: changes whenever the file does; empty where the server says nothing by which a
            change could be seen.
        sha256: what a manifest beside it says of its bytes, or empty.
    """

    url: str
    size: int
    mark: str
    sha256: str = ""

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Its name in its folder."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of its name from the last dot on."""
        return Path(self.name).suffix

    def open(self) -> RawIOBase:
        """Give a stream that reads only what is asked for."""
        return _Stream(self)

    def read(self, begin: int, end: int) -> bytes:
        """Read a stretch.

        Args:
            begin: the first byte.
            end: the byte behind the last one.

        Raises:
            PatientError: the server fails, has no such file now, or gives no stretches.
        """
        fs, path = file_system(self.url)
        data: bytes = patiently(self.url, lambda: fs.cat_file(path, start=begin, end=end))
        if len(data) != end - begin:
            raise PatientError(
                self.url,
                f"{end - begin} bytes from byte {begin} on",
                f"{len(data)} bytes",
                "does the server give stretches of files? --live fetches files whole",
            )
        return data

    def fetch(self, target: Path) -> None:
        """Write the whole file to the disk; a run that is killed leaves nothing under the name.

        Raises:
            PatientError: the server fails, or the file has another size now.
        """
        fs, path = file_system(self.url)
        part = target.with_name(f".{target.name}.{uuid4().hex}.part")
        try:
            patiently(self.url, lambda: fs.get_file(path, str(part)))
            if part.stat().st_size != self.size:
                found = f"{part.stat().st_size}"
                raise PatientError(self.url, f"{self.size} bytes", found, "try again")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


class _Stream(RawIOBase):
    """Read a remote file from a position on; one stretch is in memory at a time."""

    def __init__(self, file: RemoteFile) -> None:
        self.file, self.at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + {0: 0, 1: self.at, 2: self.file.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        end = min(self.at + len(buffer), self.file.size, self.at + STRETCH)
        if end <= self.at:
            return 0
        data = self.file.read(self.at, end)
        buffer[: len(data)] = data
        self.at = end
        return len(data)


def file_system(url: str) -> tuple[Any, str]:
    """Give the file system of a URL, and the URL's path in it.

    Raises:
        MissingExtraError: the packages of the extra ``remote`` are not installed.
        PatientError: the protocol is unknown, or needs another package.
    """
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtraError(url, "fsspec", "remote") from None
    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        if url.startswith(_UNLISTED):
            raise MissingExtraError(url, "aiohttp", "remote") from None
        line = " ".join(str(error).split())[:200]
        raise PatientError(url, "a protocol that fsspec can read here", line) from None
    return fs, path


def patiently(url: str, ask: Callable[[], _T]) -> _T:
    """Ask a server, again after a short while where it fails.

    Raises:
        PatientError: it fails again and again, or has no such file.
    """
    for last in [False] * (TRIES - 1) + [True]:
        try:
            return ask()
        except SurgeryError:
            raise
        except FileNotFoundError as error:
            raise PatientError(url, "a file", why(error)) from None
        except Exception as error:
            if last:
                raise PatientError(url, "a server that answers", why(error)) from None
            time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def look_up(url: str, names: Iterable[str]) -> dict[str, RemoteFile]:
    """Look for files in a folder by their names; those that are not there are left out.

    Args:
        url: the folder.
        names: names of files, without their folder.

    Raises:
        PatientError: the server fails.
    """
    file_system(url)[0].invalidate_cache()
    listed = list(names)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: _info(f"{url}/{name}"), listed)
        return {name: one for name, one in zip(listed, found, strict=True) if one}


def has_lists(url: str) -> bool:
    """Tell whether the protocol of a URL can list the files of a folder."""
    return not url.startswith(_UNLISTED)


def listing(url: str, *, deep: bool = False) -> dict[str, RemoteFile] | None:
    """List the files of a folder by their path in it; None where the protocol has no lists.

    Args:
        url: the folder.
        deep: list the files of folders inside too.

    Raises:
        PatientError: nothing is there, or the server fails.
    """
    fs, path = file_system(url)
    if not has_lists(url):
        return None
    fs.invalidate_cache()
    find = fs.find if deep else fs.ls
    found = patiently(url, lambda: find(path, detail=True))
    infos = list(found.values()) if deep else found
    top = len(path.rstrip("/")) + 1
    return {
        info["name"][top:]: _remote(f"{url}/{info['name'][top:]}", info, fs)
        for info in infos
        if info["type"] == "file"
    }


def _info(url: str) -> RemoteFile | None:
    """Look one file up; None where it is not there."""
    fs, path = file_system(url)

    def ask() -> RemoteFile | None:
        try:
            info = fs.info(path)
        except FileNotFoundError as error:
            cause = error.__cause__
            if cause is not None and getattr(cause, "status", None) not in _MISSING:
                raise ConnectionError(why(cause)) from None
            return None
        return _remote(url, info, fs) if info["type"] == "file" else None

    return patiently(url, ask)


def _remote(url: str, info: dict[str, Any], fs: Any) -> RemoteFile:
    """Describe a file by what its server says."""
    if info.get("size") is None:
        raise PatientError(url, "a server that tells the size of files", "none")
    said = [f"{key}={info[key]}" for key in _MARKS if info.get(key)]
    if not said and url.startswith(_UNLISTED):
        return RemoteFile(url, int(info["size"]), "")
    mark = f"{fs.ukey(info['name'])} {info['size']} {said}"
    return RemoteFile(url, int(info["size"]), sha256(mark.encode()).hexdigest())


def why(error: BaseException) -> str:
    """Write what a server said as one line."""
    if isinstance(error, FileNotFoundError):
        return "nothing there"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
