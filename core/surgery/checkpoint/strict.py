"""Read what strangers wrote: bounded, once, and with one kind of error."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from surgery.errors import IntegrityError

ANEW = "get the file again from where it came"
"""What to do about a file that is not what it should be."""

MAX_TEXT = 100_000_000
"""Bytes above which a text is not read."""


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn what the system raises while a file is read into one error that names the file.

    Args:
        path: how the error names the file, unless the system names another.

    Raises:
        IntegrityError: instead of an OSError, of a name that no system takes, or of a circle of
            links.
    """
    try:
        yield
    except OSError as error:
        where = path if error.filename is None else error.filename
        wanted, found = "a file that can be read", f"'{error.strerror or error}'"
        raise IntegrityError(show_path(where), wanted, found) from error
    except (ValueError, RuntimeError) as error:
        raise IntegrityError(show_path(path), "a file that can be read", show(error)) from error


def read_text(path: Path, most: int = MAX_TEXT) -> str:
    """Read a text in UTF-8.

    Args:
        path: the file.
        most: bytes above which it is refused.

    Raises:
        IntegrityError: it is no plain file, cannot be read, is too long or is no UTF-8.
    """
    with readable(path):
        if not path.is_file():
            found = "something else" if path.exists() else "nothing there"
            refuse(path, "a plain file", found)
        with open(path, "rb") as file:
            content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
        if len(content) > most:
            refuse(path, f"at most {most} bytes", "more")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(path, "a text in UTF-8", show(error))


def read_json(path: Path, most: int = MAX_TEXT) -> Any:
    """Read JSON in which each name stands once in its object.

    Args:
        path: the file.
        most: bytes above which it is refused.

    Raises:
        IntegrityError: it cannot be read, is no JSON, or says something twice.
    """
    return parse_json(read_text(path, most), path)


def parse_json(text: str, where: object) -> Any:
    """Parse JSON in which each name stands once in its object, and no number is NaN or infinite.

    Args:
        text: the JSON.
        where: how errors name the file.

    Raises:
        IntegrityError: it is no JSON, or says something twice.
    """
    try:
        return json.loads(
            text, object_pairs_hook=partial(_once, where), parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        refuse(where, "JSON", show(error))


def _once(where: object, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a mapping of an object's pairs; of a name that stands twice readers take either."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        refuse(where, "each name once", f"{show(twice)} twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinity, which are no JSON."""
    raise ValueError(f"{name} is no number of JSON")


def show(value: Any) -> str:
    """Write a value of a file, or an error about it, short and harmless on a terminal."""
    text = f"'{ascii(str(value))[1:-1]}'" if isinstance(value, Exception) else ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def show_path(path: object) -> str:
    """Write a path or URL so that it is harmless on a terminal."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def refuse(where: object, wanted: str, found: str) -> NoReturn:
    """Raise the error of a file that is not what it should be.

    Raises:
        IntegrityError: always.
    """
    raise IntegrityError(show_path(where), wanted, found, ANEW)
