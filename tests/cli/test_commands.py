from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.hooks.fakes import distribution, good


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def test_plugins_lists_versions_and_offers(surgery_command: Run, site: Path) -> None:
    distribution(site, "acme", good("acme/one"), version="1.2.3")
    done = surgery_command("plugins", site=str(site))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[lines.index("acme 1.2.3") + 1] == "  surgery: acme/one"


def test_plugins_tells_what_is_broken_and_what_clashes_and_fails(
    surgery_command: Run, site: Path
) -> None:
    distribution(site, "acme", good("scale"))
    distribution(site, "bolt", good("scale"))
    distribution(site, "cord", "raise ImportError('gone')", version="0.1")
    done = surgery_command("plugins", "--json", site=str(site))
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    by_name = {plugin["name"]: plugin for plugin in answer["plugins"]}
    assert by_name["acme"] == {
        "name": "acme", "version": "1.0", "broken": False, "offers": {"surgery": ["scale"]},
    }  # fmt: skip
    assert by_name["cord"]["broken"] is True
    assert any("ImportError: gone" in error["found"] for error in answer["errors"])
    assert any(error["found"] == "acme 1.0 and bolt 1.0" for error in answer["errors"])
    assert "plugin cord 0.1" in done.stderr


def test_a_broken_plugin_does_not_take_other_commands_down(
    surgery_command: Run, site: Path
) -> None:
    distribution(site, "cord", "import os, sys; sys.exit(9)")
    for arguments in (["--help"], ["recipes"], ["schema"]):
        assert surgery_command(*arguments, site=str(site)).returncode == 0


def test_a_disabled_plugin_is_gone(surgery_command: Run, site: Path) -> None:
    distribution(site, "acme", good("acme/one"))
    done = surgery_command("plugins", site=str(site), SURGERY_DISABLE_PLUGINS="acme")
    assert done.returncode == 0
    assert "acme" not in done.stdout


def test_local_plugins_are_loaded_for_one_command(surgery_command: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(good("mine"))
    (tmp_path / "other.py").write_text(good("other"))
    done = surgery_command("plugins", "--plugin", "mine.py", "--plugin", "other.py")
    assert done.returncode == 0
    assert "mine.py sha256:" in done.stdout
    assert "  surgery: other" in done.stdout
    assert "mine" not in surgery_command("plugins").stdout


def test_a_local_plugin_that_fails_is_an_error(surgery_command: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import sys; sys.exit(0)")
    done = surgery_command("plugins", "--plugin", "mine.py")
    assert done.returncode == 1
    assert done.stderr.startswith("surgery: --plugin mine.py: expected")
    assert surgery_command("plugins", "--plugin", "none.py").returncode == 1


def test_schema_prints_a_schema_that_knows_local_plugins(
    surgery_command: Run, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(good("acme/mine"))
    done = surgery_command("schema", "--plugin", "mine.py")
    assert done.returncode == 0
    steps = json.loads(done.stdout)["$defs"]["Step"]["oneOf"]
    assert "acme/mine" in [step["properties"]["use"]["const"] for step in steps]


def test_schema_warns_of_what_it_leaves_out_unless_quiet(surgery_command: Run, site: Path) -> None:
    distribution(site, "cord", "raise ImportError('gone')")
    assert "warning: plugin cord" in surgery_command("schema", site=str(site)).stderr
    assert surgery_command("schema", "--quiet", site=str(site)).stderr == ""


@pytest.fixture
def recipes(site: Path) -> Path:
    """A package of recipes that stands in for the shipped one."""
    folder = site / "surgery_recipes"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "first.yaml").write_text("# Does the first thing.\nrecipe: 1\n")
    return site


def test_recipes_are_listed_with_their_summary(surgery_command: Run, recipes: Path) -> None:
    done = surgery_command("recipes", site=str(recipes))
    assert done.stdout == "first  Does the first thing.\n"
    answer = json.loads(surgery_command("recipes", "--json", site=str(recipes)).stdout)
    assert answer["recipes"] == [{"name": "first", "summary": "Does the first thing."}]


def test_a_recipe_is_copied_once_and_never_over_a_file(
    surgery_command: Run, recipes: Path, tmp_path: Path
) -> None:
    assert surgery_command("recipes", "copy", "first", site=str(recipes)).returncode == 0
    assert (tmp_path / "first.yaml").read_text().startswith("# Does")
    done = surgery_command("recipes", "--json", "copy", "first", site=str(recipes))
    assert done.returncode == 1
    assert json.loads(done.stdout)["errors"][0]["code"] == "output"
    done = surgery_command("recipes", "copy", "frist", site=str(recipes))
    assert done.returncode == 2
    assert "did you mean 'first'" in done.stderr


def test_options_before_a_subcommand_count_too(surgery_command: Run, recipes: Path) -> None:
    done = surgery_command("recipes", "--json", "copy", "first", "mine.yaml", site=str(recipes))
    assert json.loads(done.stdout) == {"ok": True, "schema": 1, "file": "mine.yaml"}
