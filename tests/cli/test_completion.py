"""What a shell is told when it asks how to go on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from surgery.anatomy.site import ROLES
from surgery.cli import main
from surgery.cli.app import surgery
from surgery.cli.completion import SHELLS, VARIABLE
from surgery.hooks.registry import registry
from surgery.recipe.shipped import shipped
from tests.cli.conftest import Run


def completed(*words: str) -> dict[str, str]:
    """Give what stands at the end of a line, with its kind; the last word is not finished."""
    shell = ShellComplete(surgery, {}, "surgery", VARIABLE)
    found = shell.get_completions(list(words[:-1]), words[-1])
    return {item.value: item.type for item in found}


def test_models_are_folders_sources_and_recipes() -> None:
    found = completed("inspect", "")
    assert set(shipped()) < set(found)
    assert {f"{name}:" for name in registry(()).names("source")} < set(found)
    assert found[""] == "file"


def test_recipes_are_shipped_ones_and_files() -> None:
    first = next(iter(shipped()))
    for command in ("plan", "apply", "check", "train", "diagnose", "launch"):
        assert completed(command, first[:3])[first] == "plain", command
        assert completed(command, "./x") == {"./x": "file"}, command


def test_roles_are_those_of_the_anatomy_and_of_families() -> None:
    added = {role for family in registry(()).families() for role in family.roles}
    assert set(completed("inspect", "x", "--role", "")) == {*ROLES, *added}
    assert "attention.q" in completed("inspect", "x", "--role", "attention.")


def test_surgeries_of_plugins_and_folders() -> None:
    assert set(completed("extract", "a", "b", "--use", "")) == set(registry(()).names("surgery"))
    assert completed("merge", "") == {"": "file"}
    assert completed("merge", "o", "--into", "x") == {"x": "dir"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert VARIABLE in capsys.readouterr().out


def test_the_script_of_bash_is_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash", "--quiet"]) == 0
    script = tmp_path / "complete.sh"
    script.write_text(capsys.readouterr().out)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_the_shell_gets_an_answer_from_the_command(surgery_command: Run) -> None:
    asked = {"COMP_WORDS": "surgery insp", "COMP_CWORD": "1", VARIABLE: "bash_complete"}
    done = surgery_command(**asked)
    assert (done.returncode, done.stdout.split()) == (0, ["plain,inspect"])
