"""Small models in folders, without weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.resampler.kit import HOSTS
from tests.rope import kit as models

MODELS = {
    "sam2": models.sam2, "sam3": models.sam3, "video": models.sam3_video, "llama": models.llama,
    "vit": models.vit, **HOSTS,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *surgeries: Any, weights: bool = False, **more: Any) -> Path:
        """Write a recipe for a small model; of the model only what has no weights is kept."""
        torch.manual_seed(0)
        folder = tmp_path / name
        if not folder.exists():
            MODELS[name]().save_pretrained(folder)
            for file in () if weights else folder.glob("*.safetensors"):
                file.unlink()
        steps = list(surgeries) or [{"use": "freeze"}]
        data = {"recipe": 1, "patient": {"source": "hf", "path": f"./{name}"}, "surgeries": steps}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**data, **more}))
        return file

    return write
