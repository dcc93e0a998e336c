from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.hooks.registry import Registry, registry
from surgery.testing import ZOO, ZooSource, save, with_zoo

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def known() -> Registry:
    return with_zoo(registry())


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], ZooSource]:
    """The zoo's files, by breed and dtype; read only."""
    root = tmp_path_factory.mktemp("zoo")
    kinds: tuple[Any, ...] = ("float32", "bfloat16")
    return {
        (breed, dtype): save(breed, Path(root / f"{breed} {dtype}"), dtype)
        for breed in ZOO
        for dtype in kinds
    }
