"""Migrate one recipe file, and write it in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from tempfile import mkstemp

from surgery.errors import OutputError, RecipeError
from surgery.recipe.migrate import migrated
from surgery.recipe.nodes import plain
from surgery.recipe.rewrite import rewrite
from surgery.recipe.schema import FORMAT
from surgery.recipe.yaml import read_file


@dataclass(frozen=True, slots=True)
class Migrated:
    """What migrating a file comes to.

    Attributes:
        before: its text.
        after: its text in the present version.
        version: of the format, as it was.
        target: the present version.
        lost: line, and text, of each comment that cannot stay.
        extends: what the file extends; empty if nothing.
    """

    before: str
    after: str
    version: int
    target: int = FORMAT
    lost: tuple[tuple[int, str], ...] = ()
    extends: str = ""

    @property
    def changed(self) -> bool:
        """Whether the file was of another version."""
        return self.version != self.target

    @property
    def difference(self) -> str:
        """The difference of the texts, as ``diff -u`` shows it."""
        old, new = self.before.splitlines(), self.after.splitlines()
        return "\n".join(unified_diff(old, new, "before", "after", lineterm=""))


def migrate_file(file: Path) -> Migrated:
    """Bring the text of a recipe file to the present version; nothing is written.

    Raises:
        RecipeError: the file cannot be read, or is of no known version.
    """
    source = str(file)
    document = read_file(file, source)
    for _, problem in document.problems:
        raise problem
    if document.root is None or not isinstance(document.root.value, Mapping):
        raise RecipeError(source, "keys and values", "another file")
    data = plain(document.root)
    named = document.root.child("recipe")
    new = migrated(data, mark=named.mark if named else document.root.mark)
    before = file.read_bytes().decode("utf-8-sig")
    done = rewrite(before, new)
    extends = str(data.get("extends", ""))
    return Migrated(before, done.text, data["recipe"], lost=done.lost, extends=extends)


def write_text(file: Path, text: str) -> None:
    """Replace a file's text in one step; a link stays a link, and modes stay.

    Raises:
        OutputError: it cannot be written.
    """
    target = file.resolve()
    temporary = ""
    try:
        handle, temporary = mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        _take_mode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(str(file), "a file to write", error.strerror or str(error)) from None


def _take_mode(target: Path, temporary: str) -> None:
    """Give a new file the mode of the one it replaces, or the one that a plain file gets."""
    if target.exists():
        shutil.copymode(target, temporary)
    else:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
