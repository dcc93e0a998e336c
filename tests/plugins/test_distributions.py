"""The example packages, and the one that ``surgery new plugin`` writes, as distributions.

They are built, installed into a fresh environment, tested there and used in recipes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.fresh import EXAMPLES, NAMES, Fresh, fresh, versions, without_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("distributions")]
MINE = "my-surgery"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Install the core, the examples, and a package of one's own."""
    folder = tmp_path_factory.mktemp("fresh")
    made = fresh(folder / "venv")
    made.run(["surgery", "new", "plugin", MINE], folder)
    made.install(*(EXAMPLES / name for name in NAMES), folder / MINE)
    return made


@pytest.fixture(scope="module")
def outputs(environment: Fresh, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Read each example's README in a folder of its own, and keep what came of it."""
    found = {}
    for name in NAMES:
        folder = without_source(EXAMPLES / name, tmp_path_factory.mktemp("read") / name)
        environment.read(folder / "README.md", folder)
        found[name] = folder / "out"
    return found


def journal(folder: Path) -> Any:
    return json.loads((folder / "surgery.json").read_text("utf-8"))


def test_all_are_listed(environment: Fresh, tmp_path: Path) -> None:
    said = environment.run(["surgery", "plugins", "--json"], tmp_path).stdout
    found = dict(versions(json.loads(said)["plugins"]))
    assert {f"surgery-example-{name}" for name in NAMES} | {MINE} <= found.keys()
    assert {found[f"surgery-example-{name}"] for name in NAMES} == {"1.2.0"}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_passes_its_own_tests(name: str, environment: Fresh, tmp_path: Path) -> None:
    folder = without_source(EXAMPLES / name, tmp_path / name)
    said = environment.run(["python", "-m", "pytest"], folder).stdout
    assert "failed" not in said
    assert ("surgery conformance" in said) == (name == "gain")


def test_each_readme_is_true(outputs: dict[str, Path]) -> None:
    assert all((folder / "surgery.json").is_file() for folder in outputs.values())


def test_journals_name_plugins_and_versions(outputs: dict[str, Path]) -> None:
    owners = {name: journal(folder)["steps"][-1] for name, folder in outputs.items()}
    assert owners["gain"]["plugin"] == "surgery-example-gain"
    assert owners["gain"]["version"] == "1.2.0"
    source = journal(outputs["perceptron"])["base"]["plugin"]
    assert source == {"name": "surgery-example-perceptron", "version": "1.2.0"}


@pytest.mark.parametrize("name", ["gain", "perceptron"])
@pytest.mark.parametrize(
    "command",
    [
        ["surgery", "merge", "out", "--into", "again"],
        ["surgery", "undo", "out", "--surgery", "0", "--into", "again"],
        ["surgery", "diff", "out", "base"],
        ["python", "-c", "import surgery; surgery.load('out')"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_plugin_that_is_gone_is_named(
    name: str, command: list[str], environment: Fresh, outputs: dict[str, Path]
) -> None:
    where, gone = outputs[name].parent, f"surgery-example-{name}"
    said = environment.run(command, where, good=False, SURGERY_DISABLE_PLUGINS=gone)
    assert f"pip install '{gone}>=1.2.0'" in said.stderr + said.stdout


def test_an_older_plugin_is_told_to_be_updated(outputs: dict[str, Path], tmp_path: Path) -> None:
    old = tmp_path / "gain"
    shutil.copytree(EXAMPLES / "gain", old)
    project = old / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace("1.2.0", "1.1.0"))
    other = fresh(tmp_path / "venv")
    other.install(old)
    where = outputs["gain"].parent
    said = other.run(["surgery", "merge", "out", "--into", "again"], where, good=False).stderr
    assert "version 1.1.0" in said
    assert "pip install 'surgery-example-gain>=1.2.0'" in said


def test_a_new_plugin_passes_its_own_tests(environment: Fresh, tmp_path: Path) -> None:
    environment.run(["surgery", "new", "plugin", MINE], tmp_path)
    shutil.rmtree(tmp_path / MINE / "src")
    said = environment.run(["python", "-m", "pytest"], tmp_path / MINE).stdout
    assert "surgery conformance" in said
    assert "FAILED" not in said


def test_a_new_plugin_works_in_its_recipe(
    environment: Fresh, outputs: dict[str, Path], tmp_path: Path
) -> None:
    environment.run(["surgery", "new", "plugin", MINE], tmp_path)
    recipe, base = tmp_path / MINE / "recipe.yaml", outputs["gain"].parent / "base"
    target = tmp_path / "out"
    given = ["--set", f"patient.path={base}", "--set", f"output.path={target}"]
    environment.run(["surgery", "apply", str(recipe), *given], tmp_path)
    (step,) = journal(target)["steps"]
    assert (step["use"], step["plugin"], step["version"]) == (f"{MINE}/scale", MINE, "0.1.0")
    environment.run(["surgery", "verify", str(target)], tmp_path)
