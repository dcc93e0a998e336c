"""Tell places on this machine from places behind URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from surgery.errors import RecipeError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")


def is_url(place: object) -> bool:
    """Tell whether a place is written as a URL."""
    return isinstance(place, str) and bool(_URL.match(place))


def checked_url(url: str) -> str:
    """Give a URL without a slash at its end, or raise where it carries more than a place.

    Raises:
        RecipeError: it holds a user, a password or a query, which would end up in journals, or
            chains several schemes.
    """
    scheme, _, rest = url.partition("://")
    if "::" in scheme or "@" in rest.partition("/")[0] or set(rest) & set("?#"):
        raise RecipeError(
            f"{scheme}://",
            "a URL of one scheme, host and path alone",
            "one with credentials, a query or a second scheme",
            "give credentials by fsspec's own configuration, or by the environment",
        )
    return url.rstrip("/")


def local_path(url: str) -> Path | None:
    """Give the path of a URL of this machine's own files; None for any other."""
    if not url.lower().startswith("file://"):
        return None
    return Path(checked_url(url)[len("file://") :].removeprefix("localhost")).absolute()


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL.

    Attributes:
        url: where, without a slash at its end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


Folder: TypeAlias = Path | RemoteFolder
"""A folder of this machine, or one behind a URL."""


def folder_at(place: str | Path, below: Path | None = None) -> Folder:
    """Give the folder that a path or a URL names.

    Args:
        place: a path, where ``~`` is the home, or a URL; ``file://`` is this machine.
        below: what a relative path is relative to; the working folder if None.

    Raises:
        RecipeError: the URL carries more than a place.
    """
    if isinstance(place, str) and is_url(place):
        return local_path(place) or RemoteFolder(checked_url(place))
    return ((below or Path()) / Path(place).expanduser()).resolve()
