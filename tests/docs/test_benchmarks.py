"""The page on benchmarks shows every result; what needs a GPU runs in small without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import gpu
from docs.generate.benchmarks import RESULTS, page


def test_every_result_is_shown_with_its_verdicts_and_when() -> None:
    text = page()
    for path in RESULTS.glob("*.json"):
        found = json.loads(path.read_text())
        if path.stem.endswith("-quick"):
            continue
        section = text.partition(f"## {path.stem}\n")[2].partition("\n## ")[0]
        assert section.count("\n- ") == len(found["verdicts"])
        assert section.count("\n| ") == len(found["rows"]) + 1
        assert f"{found['date']}, commit {found['commit']}" in section


def test_median_and_spread_share_a_cell(tmp_path: Path) -> None:
    row = {"what": "a|b", "cpu": {"median": 2.0, "min": 1.0, "max": 30000.0}, "skipped": None}
    told = {"what": "x", "rows": [row], "date": "d", "commit": "c", "machine": "m", "versions": {}}
    (tmp_path / "one.json").write_text(json.dumps(told))
    (tmp_path / "one-quick.json").write_text(json.dumps(told))
    assert "| a\\|b | 2 (1 to 3e+04) |  |" in page(tmp_path)
    assert page(tmp_path).count("## one") == 1


@pytest.mark.slow
def test_the_gpu_benchmark_runs_in_small_on_a_processor() -> None:
    shape = {**gpu.SHAPE, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}  # fmt: skip
    found = gpu.measured(torch.device("cpu"), shape, (32,), 1)
    assert [row["what"] for row in found["rows"] if "tokens" in row] == [
        "frozen base", "surgery", "surgery, lean", "peft default", "peft base dtype"
    ]  # fmt: skip
    assert {row["what"] for row in found["rows"] if "tokens" not in row} == {
        "inject: surgery", "merge: surgery", "inject: peft", "merge: peft"
    }  # fmt: skip
    assert len(found["verdicts"]) == 4


def test_without_a_gpu_the_benchmark_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="expected a CUDA device"):
        gpu.run()
