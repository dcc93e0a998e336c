"""The page is run: its recipe, its commands, its program, and what they print."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from surgery.cli import main
from tests.diagnose.cases import trunk
from tests.rope import kit

TEXT = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.S | re.M)
SHELL = [text.strip() for language, text in BLOCKS if language == "sh"]
PRINTED = [text for language, text in BLOCKS if language == "text"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kit.sam3_trunk().save_pretrained(tmp_path / "sam3-small")
    (recipe,) = [text for language, text in BLOCKS if language == "yaml"]
    (tmp_path / "recipe.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(command: str, *more: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*command.split()[1:], *more])
    return status, out.getvalue()


def test_there_are_blocks_to_run() -> None:
    assert (len(SHELL), len(PRINTED)) == (4, 3)


@pytest.mark.parametrize(("number", "status"), [(0, 0), (1, 1)])
def test_commands_end_and_print_as_the_page_says(folder: Path, number: int, status: int) -> None:
    found, out = ran(SHELL[number], "--quiet")
    assert found == status
    assert out.endswith(PRINTED[number])
    assert "layers.1.attention" in out or not status


@pytest.mark.filterwarnings("ignore:Casting complex")
def test_the_program_prints_what_the_page_says() -> None:
    (program,) = [text for language, text in BLOCKS if language == "python"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "diagnose.md", "exec"), {"build_trunk": trunk, "__name__": "page"})
    assert out.getvalue() == PRINTED[2]


def test_json_tells_every_trial_and_no_weight_is_read(folder: Path) -> None:
    for file in (folder / "sam3-small").glob("*.safetensors"):
        file.unlink()
    status, out = ran(SHELL[2])
    found: Any = json.loads(out)
    assert (status, found["ok"], found["culprit"]) == (0, True, None)
    assert [t["kind"] for t in found["trials"]] == ["base", "alone", "alone", "prefix"]
    assert found["innocent"] == ["surgeries[0] freeze", "surgeries[1] lora"]
    checks = {c["name"]: c["status"] for c in found["trials"][2]["checks"]}
    assert checks["identity"] == checks["gradients"] == checks["contract"] == "passed"


def test_inputs_of_the_recipe_count_and_those_of_the_command_go_before_them(folder: Path) -> None:
    with Path("recipe.yaml").open("a") as file:
        file.write("check: {inputs: {pixel_values: [1, 3, 140, 140]}}\n")
    status, out = ran("surgery diagnose recipe.yaml --json")
    assert status == 1
    assert json.loads(out)["trials"][0]["trouble"]["contract"]["contract"] == "image size"
    assert ran("surgery diagnose recipe.yaml --input pixel_values=2x3x126x126")[0] == 0


def test_progress_is_told_beside_the_result_and_not_when_quiet(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", "recipe.yaml", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is True
    names = [
        "base",
        "surgeries[0] freeze alone",
        "surgeries[1] lora alone",
        "first 2: freeze, lora",
    ]
    assert [line for line in err.splitlines() if line.endswith(" ...")] == [
        f"{n} ..." for n in names
    ]
    assert main(["diagnose", "recipe.yaml", "--json", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_mistake_on_the_command_line_is_no_diagnosis(folder: Path) -> None:
    assert ran("surgery diagnose recipe.yaml --input nonsense=1x2")[0] == 2
    assert ran("surgery diagnose recipe.yaml --image-size big")[0] == 2


@pytest.mark.slow
def test_two_processes_are_started_from_the_command_line(folder: Path) -> None:
    status, out = ran(SHELL[3], "--quiet", "--json")
    assert status == 0
    found = {t["name"]: t for t in json.loads(out)["trials"]}
    assert found["DDP, gloo: all surgeries"]["status"] == "passed"
