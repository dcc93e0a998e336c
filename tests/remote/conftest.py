"""Bases on this machine, behind a loopback server, and in fsspec's memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.remote.kit import Server, serving
from tests.stream.models import save


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a cache of this test alone, and an empty memory."""
    monkeypatch.setenv("SURGERY_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save("llama", tmp_path / "served" / "base", True)


@pytest.fixture
def server(base: Path) -> Iterator[Server]:
    with serving(base.parent) as running:
        yield running
