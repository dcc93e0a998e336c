"""What docs/tokens.md and the shipped recipe say is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import surgery
from surgery.flow.recipe import apply_recipe
from surgery.flow.run import Run
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from tests.command import Ran
from tests.tokens import kit

DOCS = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCS, re.S | re.M)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    patient = kit.patient()
    patient.model.save_pretrained(tmp_path / "base")
    patient.tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "base"


def test_the_page_runs_as_it_stands(base: Path, run: Callable[..., Ran], tmp_path: Path) -> None:
    said = []
    for language, text in BLOCKS:
        if language == "yaml":
            (tmp_path / "recipe.yaml").write_text(text)
        elif language == "bash":
            for line in text.strip().splitlines():
                words = [word.strip('"') for word in line.split()]
                ran = run(*words[1:])
                assert ran.status == 0, (line, ran.err)
                said.append(ran.out)
        else:
            with redirect_stdout(StringIO()) as out:
                exec(text, {})  # the page's own example
            said.append(out.getvalue())
    assert [language for language, _ in BLOCKS] == ["yaml", "bash", "python", "bash"]
    assert "+ '[SEG]' (340, special, from text 'segmentation mask')" in said[0]
    assert said[2].splitlines() == [
        "340 341", "['model.embed_tokens.rows_weight', 'lm_head.rows_weight']", "None 340",
    ]  # fmt: skip


def test_the_table_names_every_check() -> None:
    from surgery_plugins.tokenizers.examine import examine

    patient = kit.patient()
    names = {check.name.removeprefix("tokens: ") for check in examine(patient)}
    listed = set(re.findall(r"^\| ([a-z ]+?) \|", DOCS, re.M)) - {"option", "check"}
    assert listed == names | {"samples", "texts"}


def test_the_shipped_recipe_runs(base: Path, run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("apply", "llm-tokens")
    assert ran.status == 0, ran.err
    loaded = surgery.load(tmp_path / "llm-tokens")
    rows = loaded.patient.config.vocab_size
    assert (len(loaded.patient.tokenizer), rows) == (343, 384)
    table = [name for name in loaded.plan.trainable if "lora" not in name]
    assert table == ["model.embed_tokens.rows_weight", "lm_head.rows_weight"]
    assert loaded.model.get_parameter(table[0]).shape == (3, 16)
    assert run("doctor", "tokenizer", "llm-tokens", "--weights").status == 0


@pytest.mark.parametrize("save", ["changed", "full"])
def test_streaming_writes_the_same_bytes(base: Path, tmp_path: Path, save: str) -> None:
    known = registry()
    for way in ("live", "stream"):
        sets = [f"output.path={tmp_path / way}", f"output.save={save}"]
        recipe = read_recipe("llm-tokens", registry=known, sets=sets)
        assert apply_recipe(recipe, known, Run(way)).mode.streamed == (way == "stream")
    files = {p.relative_to(tmp_path / "live") for p in (tmp_path / "live").rglob("*")}
    assert {Path("tokenizer.json"), Path("config.json"), Path("generation_config.json")} < files
    for name in files - {Path("recipe.yaml"), Path("surgery.json"), Path("manifest.json")}:
        if (tmp_path / "live" / name).is_file():
            live, streamed = ((tmp_path / way / name).read_bytes() for way in ("live", "stream"))
            assert live == streamed, name


def test_a_whole_model_is_read_by_transformers(
    base: Path, run: Callable[..., Ran], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "recipe: 1\npatient: {source: hf, path: ./base}\nsurgeries:\n"
        '  - {use: tokens, with: {add: ["[SEG]"], assign: {pad_token: "[SEG]"}}}\n'
        "output: {path: ./whole, save: full}\n"
    )
    ran = run("apply", recipe)
    assert ran.status == 0, ran.err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    made = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert model.get_input_embeddings().weight.shape[0] == len(made) == 341
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 340
    loaded = surgery.load(tmp_path / "whole")
    assert kit.bits(loaded.model) == kit.bits(model)
    assert loaded.patient.tokenizer.get_vocab() == made.get_vocab()
