"""A file that was not written to is hashed once; one that was, or may have been, again."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from surgery.checkpoint import remembered
from surgery.checkpoint.digests import changed_files, digest_files
from surgery.checkpoint.remembered import SETTLED, recall, remember, state_of


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file that was last written long ago, as the clock says, and an empty cache."""
    monkeypatch.setenv("SURGERY_CACHE", str(tmp_path / "cache"))
    now = time.time
    monkeypatch.setattr(remembered.time, "time", lambda: now() + SETTLED)
    path = tmp_path / "file"
    path.write_bytes(b"before")
    return path


def digest(path: Path, *, reread: bool = False) -> tuple[str, list[int]]:
    """Give a digest, and the numbers of bytes that were read for it."""
    seen: list[int] = []
    found = digest_files({"file": path}, reread=reread, progress=seen.append)
    return found["file"]["sha256"], seen


def test_a_file_is_hashed_once(file: Path) -> None:
    wanted = sha256(b"before").hexdigest()
    assert digest(file) == (wanted, [6])
    assert digest(file) == (wanted, [])
    assert not changed_files({"file": file}, {"file": {"size": 6, "sha256": wanted}}, reread=False)


def test_whoever_looks_for_damage_reads_all(file: Path) -> None:
    remember(state_of(file), "0" * 64)
    assert digest(file) == ("0" * 64, [])
    assert digest(file, reread=True) == (sha256(b"before").hexdigest(), [6])


def test_a_file_that_was_written_to_is_hashed_again(file: Path) -> None:
    digest(file)
    with file.open("r+b") as stream:
        stream.write(b"behind")
    assert digest(file) == (sha256(b"behind").hexdigest(), [6])


def test_an_output_that_is_linked_to_a_file_does_not_change_it(file: Path) -> None:
    digest(file)
    os.link(file, file.with_name("output"))
    assert digest(file)[1] == []


def test_another_file_under_the_name_is_hashed(file: Path) -> None:
    digest(file)
    other = file.with_name("other")
    other.write_bytes(b"behind")
    os.replace(other, file)
    assert digest(file) == (sha256(b"behind").hexdigest(), [6])


def test_a_file_that_was_just_written_is_not_remembered(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SURGERY_CACHE", str(file.with_name("cache")))
    digest(file)
    assert recall(state_of(file)) is None


@pytest.mark.parametrize("text", ["", "1 2 3", "\xff", "a b c d e f", "{} " + "0" * 62])
def test_a_damaged_memory_is_none(file: Path, text: str) -> None:
    digest(file)
    (place,) = file.with_name("cache").rglob("*-*")
    numbers = " ".join(map(str, state_of(file)))
    place.write_bytes(text.format(numbers).encode("latin-1"))
    assert digest(file) == (sha256(b"before").hexdigest(), [6])


def test_without_a_cache_every_file_is_hashed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGERY_CACHE", os.devnull)
    for _ in range(2):
        assert digest(file) == (sha256(b"before").hexdigest(), [6])
