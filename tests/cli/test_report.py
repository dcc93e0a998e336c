"""``surgery report``, from a checkpoint and from a run to a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from surgery.cli import main
from surgery.hooks.registry import registry
from surgery.report.html.page import MARK
from surgery.training.run import train_recipe
from tests.report.strict import Strict, strictly
from tests.stream.models import save
from tests.training.conftest import PLUGIN, recipe_of

RECIPE = """
recipe: 1
patient: {source: hf, path: ./base}
surgeries:
  - {use: freeze}
  - {use: lora, at: {role: attention.q}, with: {rank: 2}}
output: {path: ./out}
"""
LOCAL = ["--plugin", str(PLUGIN)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an apply wrote, and what a training did."""
    folder = tmp_path_factory.mktemp("made")
    save("llama", folder / "base", False)
    (folder / "r.yaml").write_text(RECIPE)
    assert main(["apply", str(folder / "r.yaml"), "--quiet"]) == 0
    known = registry((PLUGIN,))
    settings = {"evaluation": {"use": "test/numbers", "count": 8}, "evaluate": {"every": 4}}
    recipe = recipe_of(
        folder, known, output="./tuned", guards={"moved": "warn", "ranks": "off"}, **settings
    )
    train_recipe(recipe, known)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path, dirs_exist_ok=True))


def page_of(*arguments: str) -> Strict:
    assert main(["report", *arguments, "--into", "page.html", "--quiet"]) == 0
    return strictly(Path("page.html").read_text("utf-8"))


def test_an_output_is_told_with_anatomy_plan_and_proof(made: Path, folder: Path) -> None:
    page = page_of(str(made / "out"))
    assert "q_proj 1 lora Linear [16, 16]" in page.text
    assert "q_proj 1 lora added Linear [16, 16]" in page.text
    assert "digests passed every byte" in page.text
    assert "use: lora" in page.text
    assert "changed.safetensors" in page.text
    assert "training" not in page.ids()


def test_the_page_lies_beside_the_folder_and_leaves_it_as_it_was(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (made / "out").rglob("*")}
    assert main(["report", str(made / "out"), "--json", "--fast"]) == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert (answer["ok"], answer["notes"]) == (True, [])
    assert answer["file"] == str(made / "out-report.html")
    assert MARK in Path(answer["file"]).read_text()
    assert {p: p.stat().st_mtime_ns for p in (made / "out").rglob("*")} == before
    assert shown.err == ""


@pytest.mark.parametrize("name", ["tuned", "tuned-run"])
def test_a_training_is_told_from_its_output_and_from_its_run(
    made: Path, folder: Path, name: str
) -> None:
    page = page_of(str(made / name), *LOCAL)
    for chart in ("Loss", "accuracy", "Gradient norm", "Update share", "Learning rate", "Memory"):
        assert chart in page.text
    assert "Ended: done." in page.text
    assert "frozen tensors passed every bit as before the training" in page.text
    assert "moved warn not checked: that is done after 20 steps" in page.text
    assert "loss error found nothing" in page.text
    assert "ranks off off: nothing was checked" in page.text
    assert "objective test/counting" in page.text
    assert "v_proj 1 lora added" in page.text


def test_a_training_that_failed_says_why_and_shows_its_plan(made: Path, folder: Path) -> None:
    known = registry((PLUGIN,))
    recipe = recipe_of(
        made, known, output="./none", objective={"use": "test/counting", "how": "zero"}
    )
    with pytest.raises(Exception, match="guard"):
        train_recipe(recipe, known)
    page = page_of(str(made / "none-run"), *LOCAL)
    assert "Ended: failed." in page.text
    assert "guard" in page.text
    assert "there is no output yet" in page.text
    assert "q_proj 1 lora added" in page.text


def test_without_the_base_the_journal_is_told_and_the_page_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = folder / "out" / "surgery.json"
    shutil.move(str(folder / "base"), str(folder / "moved"))
    data = json.loads(journal.read_text())
    data["base"]["options"]["path"] = str(folder / "gone")
    journal.write_text(json.dumps(data))
    assert main(["report", str(folder / "out"), "--into", "page.html"]) == 0
    assert "note: the anatomies are left out" in capsys.readouterr().err
    page = strictly((folder / "page.html").read_text())
    assert "anatomy" not in page.ids()
    assert "lora model-surgery" in page.text
    assert "stored model.layers.0-1.self_attn.q_proj.lora_default_A x2" in page.text
    page = page_of(str(folder / "out"), "--base", str(folder / "moved"))
    assert "anatomy" in page.ids()


def test_damage_is_on_the_page(folder: Path) -> None:
    file = folder / "out" / "changed.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    page = page_of(str(folder / "out"))
    assert "files failed" in page.text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["none"], 2, "no folder"),
        (["."], 2, "nothing of the kind"),
        (["made", "--into", "mine.html"], 1, "--force"),
        (["made", "--into", "none/page.html"], 1, "a folder that is there"),
        ([], 2, "RUN|OUT"),
    ],
)
def test_mistakes_are_one_line(
    made: Path, folder: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], status: int, words: str,
) -> None:  # fmt: skip
    (folder / "mine.html").write_text("mine")
    given = [str(made / "out") if one == "made" else one for one in arguments]
    assert main(["report", *given, "--fast"]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert (folder / "mine.html").read_text() == "mine"
