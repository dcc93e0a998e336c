"""``pytest --surgery-conformance``: what it collects, says and demands."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from surgery.hooks.registry import registry
from surgery.testing import surgeries_of

PLUGIN = '''
from typing import ClassVar
from pydantic import Field
from surgery import Surgery, hookimpl
from surgery.operate.edits import SetTrainable

class Still(Surgery):
    """Stop gradients to norms."""
    name: ClassVar[str] = "acme/still"
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar = ({"at": {"type": "LayerNorm"}},)
    really: bool = Field(True, description="Whether to do it.")
    def refuse(self, site):
        return None if site.parameter else "it has no weight"
    def operate(self, sites, patient):
        for site in sites:
            yield SetTrainable(site.parameter, trainable=False)

class Bad(Surgery):
    name: ClassVar[str] = "acme/bad"
    examples: ClassVar = ({"at": {"type": "Gru"}},)
    secret: int = 3
    def refuse(self, site):
        return ""
    def operate(self, sites, patient):
        return ()

class Bare(Surgery):
    """Have no examples."""
    name: ClassVar[str] = "acme/bare"
    def refuse(self, site):
        return None
    def operate(self, sites, patient):
        return ()

@hookimpl
def surgery_surgeries():
    return [Still, Bad, Bare]
'''
ASKED = ("-s", "-p", "surgery_pytest", "-p", "no:cacheprovider", "--import-mode=importlib",
         "--surgery-conformance")  # fmt: skip
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in a folder with a plugin; give its exit status and what it said."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("acme.py").write_text(PLUGIN)

    def ran(*more: str) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = pytest.main([*ASKED, f"--rootdir={tmp_path}", *more])
        return int(status), out.getvalue()

    return ran


def test_every_law_is_told_of_for_each_patient_and_reasons_are_given(run: Run) -> None:
    chosen = "acme/still and (plan or fits or identity) and (split or convolutional)"
    status, said = run("--surgery-plugin", "acme.py", "-k", f"({chosen}) or documented")
    assert status == pytest.ExitCode.TESTS_FAILED
    _, table = said.split(" surgery conformance ")
    assert re.search(
        r"acme/still\[0\]\n +split +convolutional\n +plan equals apply +ok +-\n", table
    )
    assert "  - 2 laws (convolutional): refused: " in table
    assert "LayerNorm" in table
    assert "the class has no docstring; with.secret has no description" in said
    assert "1 failed, 4 passed, 2 skipped" in said


def test_a_surgery_without_examples_fails_and_says_what_to_write(run: Run) -> None:
    _, said = run("--surgery-plugin", "acme.py", "-k", "examples and bare")
    assert "nothing says how acme/bare is used; write examples:" in said
    assert "1 failed, " in said


def test_an_example_that_no_patient_takes_fails(run: Run) -> None:
    _, said = run("--surgery-plugin", "acme.py", "-k", "bad and operates")
    assert "acme/bad[0]: operates on some patient: split: " in said
    assert "1 failed, " in said


def test_a_refusal_without_a_word_fails(run: Run) -> None:
    _, said = run("--surgery-plugin", "acme.py", "-k", "bad and refuses and split")
    assert "of acme/bad gives ''" in said


def test_one_surgery_can_be_asked_for_by_name(run: Run) -> None:
    status, said = run("--surgery-plugin", "lora", "-k", "documented")
    assert (status, "1 passed" in said) == (0, True)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (("--surgery-plugin", "acme/stil"), ("name of a surgery", "no plugin offers")),
        (("--surgery-plugin", "nowhere.py"), ("nowhere.py", "No such file")),
        ((), ("pyproject.toml: expected a name under", "--surgery-plugin NAME")),
    ],
)
def test_mistakes_are_one_line(given: Any, parts: tuple[str, ...], run: Run) -> None:
    status, said = run(*given)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert all(part in said for part in parts), said
    assert "Traceback" not in said


def test_the_project_of_the_folder_is_what_is_tried(run: Run) -> None:
    Path("pyproject.toml").write_text('[project]\nversion = "1"\nname = "model-surgery"\n')
    status, said = run("-k", "documented")
    count = len(surgeries_of(registry(), ["model-surgery"]))
    assert (status, f"{count} passed" in said) == (0, True)


def test_a_conftest_may_bring_patients(run: Run) -> None:
    Path("conftest.py").write_text(
        "from surgery.testing import save\n"
        "def pytest_surgery_patients(folder):\n"
        "    return {'mine': save('split', folder / 'mine')}\n"
    )
    _, said = run("--surgery-plugin", "acme.py", "-k", "mine and still and plan", "-v")
    assert re.search(r"acme/still\[0\]::mine::plan equals apply.* PASSED", said), said


def test_who_does_not_ask_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    assert 'surgery_pytest' in sys.modules\n"
        "    assert not {'torch', 'surgery', 'pydantic'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "surgery_pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_pytest_finds_it_by_its_entry_point() -> None:
    found = {point.value for point in entry_points(group="pytest11")}
    assert "surgery_pytest" in found
