"""A checkpoint of 70 billion parameters is inspected from its headers and its configuration."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from time import process_time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from surgery.cli import main

LARGE = {
    "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}  # fmt: skip
SHARDS = 30
pytestmark = pytest.mark.slow


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Write configuration, index and headers; the values are holes in sparse files."""
    config = LlamaConfig(**LARGE, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in LlamaForCausalLM(config).state_dict().items()}
    names = list(shapes)
    index = {}
    for number in range(SHARDS):
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        held = {name: shapes[name] for name in names[number::SHARDS]}
        write_sparse(tmp_path / file, held)
        index |= dict.fromkeys(held, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return tmp_path


def write_sparse(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + begin)


def test_70_billion_parameters_take_seconds_and_little_memory(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sum(p.stat().st_size for p in large.glob("*.safetensors")) > 140e9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = process_time()
    assert main(["inspect", str(large), "--depth", "5"]) == 0
    seconds = process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    text = capsys.readouterr().out
    assert "70,553,706,496 parameters" in text
    assert "0-79 x80 LlamaDecoderLayer 855,654,400 parameters each layer (trace)" in text
    assert "q_proj Linear [8192, 8192] 67,108,864 parameters attention.q (trace)" in text
    assert "stored: 723 tensors in 30 files, 131.4 GiB, bfloat16" in text
    assert seconds < 20
    assert grown < 500 * 1024
