"""Laws of locks: what decides a result is in them, and what drifted is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from surgery.cli import main
from surgery.errors import DriftError, IntegrityError, Problems
from surgery.hooks.registry import registry
from surgery.recipe import lock as locks
from surgery.recipe.lock import check_lock, drift, lock_file, lock_of, read_lock, write_lock
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe

BASE = {"config.json": "{}", "model.safetensors": "weights"}
RECIPE: dict[str, Any] = {
    "recipe": 1,
    "patient": {"source": "hf", "path": "./base"},
    "surgeries": [{"use": "freeze"}, {"use": "lora", "with": {"rank": 4}}],
    "output": {"path": "./out"},
    "train": {
        "objective": {"use": "causal-lm", "text": "text"},
        "data": [
            {"use": "jsonl", "path": "./data/*.jsonl"},
            {"use": "jsonl", "path": "./one.jsonl"},
        ],
        "steps": 1,
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, whose base is given by names alone: no weight is looked into."""
    here = tmp_path / "here"
    for name, text in BASE.items():
        put(here / "base" / name, text)
    put(here / "data" / "a.jsonl", '{"text": "a"}\n')
    put(here / "data" / "b.jsonl", '{"text": "b"}\n')
    put(here / "one.jsonl", '{"text": "c"}\n')
    put(here / "recipe.yaml", json.dumps(RECIPE))
    source = registry().source("hf")

    def files(names: str) -> Callable[[Any], dict[str, Path]]:
        return lambda self: {p.name: p for p in Path(self.path).glob(names)}

    monkeypatch.setattr(source, "weights", files("*.safetensors"))
    monkeypatch.setattr(source, "companions", files("*.json"))
    return here


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(folder: Path, *sets: str) -> Recipe:
    return read_recipe(folder / "recipe.yaml", registry=registry(), sets=sets)


def drifted(folder: Path, *sets: str) -> list[str]:
    try:
        check_lock(read(folder, *sets), registry())
    except Problems as problems:
        return [str(one).partition(": ")[2] for one in problems.problems]
    return []


def changed(folder: Path, data: Any) -> Path:
    put(folder / "recipe.yaml", json.dumps(data))
    return folder


def test_a_lock_holds_recipe_versions_base_and_data(folder: Path) -> None:
    file = write_lock(read(folder), registry())
    assert file == folder / "recipe.yaml.lock" == lock_file(read(folder))
    held = read_lock(file)
    assert held["recipe"]["values"] == {**RECIPE, "output": {}}
    assert {"python", "torch", "transformers", "model-surgery"} <= held["versions"].keys()
    assert list(held["plugins"]) == ["model-surgery"]
    assert held["base"].keys() == BASE.keys()
    assert {place: list(files) for place, files in held["data"].items()} == {
        "train.data[0].path": ["a.jsonl", "b.jsonl"], "train.data[1].path": ["one.jsonl"],
    }  # fmt: skip
    assert drifted(folder) == []


def test_a_lock_holds_wherever_the_folder_lies(folder: Path) -> None:
    first = write_lock(read(folder), registry()).read_bytes()
    there = Path(shutil.copytree(folder, folder.parent / "there"))
    assert drifted(there) == []
    assert write_lock(read(there), registry()).read_bytes() == first
    assert drifted(there, "output.path=./elsewhere") == []


def test_comments_and_order_of_keys_are_no_drift(folder: Path) -> None:
    write_lock(read(folder), registry())
    turned = dict(reversed(RECIPE.items()))
    put(folder / "recipe.yaml", "# mine\n" + json.dumps(turned, indent=1))
    assert drifted(folder) == []


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("base/model.safetensors", "base.model.safetensors: expected sha256 "),
        ("base/config.json", "base.config.json: expected sha256 "),
        ("data/b.jsonl", "train.data[0].path.b.jsonl: expected sha256 "),
        ("data/new.jsonl", "train.data[0].path.new.jsonl: expected nothing, got sha256 "),
    ],
)
def test_a_file_that_changes_is_named(folder: Path, file: str, wanted: str) -> None:
    write_lock(read(folder), registry())
    put(folder / file, "other")
    (found,) = drifted(folder)
    assert wanted in found
    assert "of 5 bytes; run: surgery lock" in found


def test_values_are_named_from_and_to(folder: Path) -> None:
    write_lock(read(folder), registry())
    (found,) = drifted(folder, "surgeries.1.with.rank=8")
    assert found.startswith("recipe.surgeries[1].with.rank: expected 4, got 8; run: surgery lock")
    (found,) = drifted(folder, "seed=1")
    assert "recipe.seed: expected nothing, got 1" in found
    changed(folder, {**RECIPE, "surgeries": RECIPE["surgeries"][:1]})
    assert "recipe.surgeries[1].use: expected lora, got nothing" in "\n".join(drifted(folder))


def test_a_variable_of_the_environment_that_changes_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = yaml.safe_dump({**RECIPE, "surgeries": [{"use": "lora", "with": {"rank": "RANK"}}]})
    put(folder / "recipe.yaml", text.replace("RANK", "${env:RANK}"))
    monkeypatch.setenv("RANK", "2")
    write_lock(read(folder), registry())
    monkeypatch.setenv("RANK", "3")
    (found,) = drifted(folder)
    assert "recipe.surgeries[0].with.rank: expected 2, got 3" in found


def test_versions_are_named_from_and_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(read(folder), registry())
    real = locks.version
    monkeypatch.setattr(locks, "version", lambda n: "9.9" if n == "torch" else real(n))
    (found,) = drifted(folder)
    assert found.startswith(f"versions.torch: expected {real('torch')}, got 9.9")


def test_only_plugins_that_may_take_part_are_held(folder: Path, tmp_path: Path) -> None:
    from surgery.hooks.discover import load_file
    from tests.hooks.fakes import good

    put(tmp_path / "mine.py", good("mine"))
    more = registry().with_plugins([load_file(tmp_path / "mine.py")])
    given = {**RECIPE, "surgeries": [{"use": "mine"}]}
    used = read_recipe(changed(folder, given) / "recipe.yaml", registry=more)
    (version,) = (v for name, v in lock_of(used, more)["plugins"].items() if name == "mine.py")
    assert version.startswith("sha256:")
    changed(folder, RECIPE)
    assert list(lock_of(read(folder), more)["plugins"]) == ["model-surgery"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda held: {**held, "lock": 2},
        lambda held: {k: v for k, v in held.items() if k != "base"},
        lambda held: {**held, "recipe": {**held["recipe"], "values": {}}},
        lambda held: [held],
    ],
)
def test_a_damaged_lock_is_refused(folder: Path, spoil: Callable[[Any], Any]) -> None:
    file = write_lock(read(folder), registry())
    file.write_text(json.dumps(spoil(json.loads(file.read_text()))))
    with pytest.raises(IntegrityError, match=r"recipe\.yaml\.lock"):
        check_lock(read(folder), registry())


def test_no_lock_is_no_pass(folder: Path) -> None:
    with pytest.raises(DriftError, match=r"a lock beside the recipe, got none; run `surgery lock`"):
        check_lock(read(folder), registry())


def test_nothing_and_an_empty_value_are_told_apart() -> None:
    one, other = {"recipe": {"values": {"a": {}}}}, {"recipe": {"values": {"a": []}}}
    assert drift(one, other) == [("recipe.a", "{}", "[]")]
    assert drift(one, {"recipe": {"values": {"a": {"b": 1}}}}) == [
        ("recipe.a", "{}", "nothing"), ("recipe.a.b", "nothing", "1"),
    ]  # fmt: skip


# the command


def test_locked_commands_refuse_drift_before_anything_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(folder / "recipe.yaml")
    for command in ("plan", "apply", "train", "check", "diagnose"):
        assert main([command, recipe, "--locked"]) == 1
        assert "run `surgery lock` on the recipe" in capsys.readouterr().err
    assert main(["lock", recipe]) == 0
    assert "files of the base 2, of data 3, plugins model-surgery" in capsys.readouterr().out
    put(folder / "base" / "config.json", "[]")
    for command in ("plan", "apply", "train", "check", "diagnose"):
        assert main([command, recipe, "--locked", "--json"]) == 1
        (error,) = json.loads(capsys.readouterr().out)["errors"]
        assert (error["code"], error["where"]) == ("drift", "recipe.yaml.lock: base.config.json")
    assert main(["lock", recipe, "--check"]) == 1
    assert main(["lock", recipe]) == main(["lock", recipe, "--check"]) == 0
    assert not (folder / "out").exists()
