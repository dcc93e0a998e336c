"""A small model of transformers, saved, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.cli import main

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 96, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@dataclass
class Ran:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def state(base: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(base / "model.safetensors")


@pytest.fixture
def like(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with the configuration alone, some of it changed; None takes a key out."""

    def write(**changes: Any) -> Path:
        data = {**json.loads((base / "config.json").read_text()), **changes}
        data = {key: value for key, value in data.items() if value is not None}
        (tmp_path / "like").mkdir(exist_ok=True)
        (tmp_path / "like" / "config.json").write_text(json.dumps(data))
        return tmp_path / "like"

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Ran(status, printed.out, printed.err)

    return call
