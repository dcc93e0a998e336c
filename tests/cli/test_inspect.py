from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from surgery.cli import main
from tests.cli.conftest import Run

CONFIG = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
RECIPE = """
recipe: 1
patient: {source: hf, path: ./base}
surgeries:
  - use: lora
    at: {role: attention.q}
    with: {rank: 2}
output: {path: ./out}
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_folder_is_inspected_without_its_weights(surgery_command: Run, base: Path) -> None:
    (base / "model.safetensors").unlink()
    done = surgery_command("inspect", "base")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0-2 x3 LlamaDecoderLayer" in done.stdout
    assert "q_proj Linear [16, 16] 256 parameters attention.q (trace)" in done.stdout


def test_json_lists_the_sites_of_a_role(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "hf:./base", "--role", "attention.k", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert [site["path"] for site in answer["sites"]] == [
        f"model.layers.{n}.self_attn.k_proj" for n in range(3)
    ]


def test_a_recipe_names_its_patient(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text(RECIPE)
    assert main(["inspect", "r.yaml", "--depth", "1"]) == 0
    text = capsys.readouterr().out
    assert "model LlamaForCausalLM" in text
    assert "q_proj" not in text


def test_what_an_apply_wrote_is_inspected_with_its_surgeries(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text(RECIPE)
    assert main(["apply", "r.yaml", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["inspect", "out"]) == 0
    text = capsys.readouterr().out
    assert "extends 3 modules" in text
    base_size = LlamaForCausalLM(LlamaConfig(**CONFIG)).num_parameters()
    added = 3 * 2 * (16 + 16)
    assert f"{base_size:,} parameters" in text
    assert f"of the model's {base_size + added:,} parameters" in text


def test_layers_are_shown_alone(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--role", "attention.q", "--role", "mlp.up", "--layers", "-1", "--layers", "0"]
    assert main(["inspect", "base", *asked, "--json"]) == 0
    paths = [site["path"] for site in json.loads(capsys.readouterr().out)["sites"]]
    leaves = ("self_attn.q_proj", "mlp.up_proj")
    assert paths == [f"model.layers.{n}.{leaf}" for n in (0, 2) for leaf in leaves]


def test_what_the_source_could_not_build_is_a_note(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "preprocessor_config.json").write_text('{"image_processor_type": "None"}')
    assert main(["inspect", "base"]) == 0
    assert "note: no processor: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nothing"], 1, "a folder with a model, SOURCE:NAME or a recipe"),
        (["qickstart"], 1, "did you mean 'quickstart'"),
        (["."], 1, "config.json"),
        (["base", "--role", "attention.w"], 1, "attention.q (3)"),
        (["base", "--layers", "3"], 1, "model.layers has 3 layers, 0-2"),
        (["base", "--layers", "a"], 2, "a range such as 4-11"),
        (["base", "--depth", "-1"], 2, "--depth"),
        (["demo:maxilm"], 2, "'minilm'"),
        ([], 2, "MODEL"),
        (["broken.yaml"], 2, "broken.yaml"),
        (["bare.yaml"], 2, "a source"),
    ],
)
def test_mistakes_are_one_line(
    base: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    Path("broken.yaml").write_text("[1, 2")
    Path("bare.yaml").write_text("recipe: 1\nsurgeries: [{use: freeze}]\n")
    assert main(["inspect", *arguments]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert len(shown.err.strip().splitlines()) == 1
