"""Laws of versions of the recipe format, with a version 0 that never was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.cli import main
from surgery.errors import RecipeError
from surgery.hooks.registry import Registry
from surgery.recipe import migrate
from surgery.recipe.dump import dump_yaml
from surgery.recipe.migrate import MIGRATIONS, migrated
from surgery.recipe.nodes import plain
from surgery.recipe.read import read_recipe
from surgery.recipe.rewrite import rewrite
from surgery.recipe.schema import FORMAT
from surgery.recipe.yaml import read_yaml

GOLDEN = Path(__file__).parent / "golden" / "migrate"
BEFORE = (GOLDEN / "0-before.yaml").read_text("utf-8")
AFTER = (GOLDEN / "0-after.yaml").read_text("utf-8")
WORDS = {"random": "seed", "operations": "surgeries", "do": "use", "where": "at"}


def to_1(data: dict[str, Any]) -> dict[str, Any]:
    """The migration from the version that never was."""
    found = {WORDS.get(key, key): value for key, value in data.items()}
    for step in found.get("surgeries", []):
        step.pop("loud", None)
        for old in ("do", "where"):
            if old in step:
                step[WORDS[old]] = step.pop(old)
    if "output" in found:
        found["output"] = {"path": found["output"]}
    return found


@pytest.fixture
def version_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(migrate.MIGRATIONS, 0, to_1)


def values(text: str) -> Any:
    root = read_yaml(text, "recipe").root
    assert root is not None
    return plain(root)


def test_every_version_there_was_has_a_migration() -> None:
    assert list(MIGRATIONS) == list(range(1, FORMAT))


def test_a_golden_recipe_is_migrated_and_keeps_its_comments(version_0: None) -> None:
    done = rewrite(BEFORE, migrated(values(BEFORE)))
    assert done.text == AFTER
    assert done.lost == ((17, "# gone in version 1"),)
    assert migrated(values(AFTER)) == values(AFTER)


def test_migrations_are_chained_and_change_nothing_they_are_given() -> None:
    def add(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def step(data: dict[str, Any]) -> dict[str, Any]:
            data["list"].append(key)
            return data

        return step

    data = {"recipe": 1, "list": []}
    known = {1: add("one"), 2: add("two")}
    assert migrated(data, known, 3) == {"recipe": 3, "list": ["one", "two"]}
    assert migrated({"recipe": 2, "list": []}, known, 3) == {"recipe": 3, "list": ["two"]}
    assert data == {"recipe": 1, "list": []}


@pytest.mark.parametrize(
    ("version", "said"),
    [(2, "got version 2; a newer surgery wrote it"), (0, "no such version"), (-1, "no such")],
)
def test_an_unknown_version_is_one_clear_error(version: int, said: str) -> None:
    text = f"# mine\nrecipe: {version}\noperations: [1]\n"
    with pytest.raises(RecipeError) as caught:
        read_recipe(text, registry=Registry())
    assert str(caught.value).startswith(
        "recipe:2:9: recipe: expected version 1 of the recipe format"
    )
    assert said in str(caught.value)
    with pytest.raises(RecipeError, match=said):
        migrated({"recipe": version})


def test_a_recipe_that_extends_one_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("recipe: 2\n")
    (tmp_path / "recipe.yaml").write_text("recipe: 1\nextends: ./base.yaml\nsurgeries: []\n")
    with pytest.raises(RecipeError, match=r"base\.yaml:1:9: .*version 2"):
        read_recipe(tmp_path / "recipe.yaml", registry=Registry())


def test_an_older_recipe_is_not_read_but_says_what_to_run(version_0: None, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(BEFORE)
    with pytest.raises(RecipeError, match=f"run: surgery migrate {file}"):
        read_recipe(file, registry=Registry())


# the command


def test_the_command_rewrites_a_file_and_names_lost_comments(
    version_0: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(BEFORE.encode())
    file.chmod(0o640)
    assert main(["migrate", str(file), "--check"]) == 1
    assert "+seed: 7          # as in the paper" in capsys.readouterr().out
    assert file.read_text() == BEFORE
    assert main(["migrate", str(file)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{file}: version 0 -> 1\n"
    assert f"{file}:17: this comment is gone: # gone in version 1" in said.err
    assert (file.read_text(), file.stat().st_mode & 0o777) == (AFTER, 0o640)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert main(["migrate", str(file), "--check"]) == 0
    assert main(["migrate", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {
        "ok": True, "schema": 1, "file": str(file), "from": 1, "to": 1, "changed": False,
        "lost": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("recipe: 7\n", "got version 7; a newer surgery wrote it"),
        ("surgeries: []\n", "the version of the recipe format"),
        ("- 1\n", "keys and values"),
        ("", "keys and values"),
        ("a: [", "YAML"),
    ],
)
def test_what_cannot_be_migrated_is_left_as_it_is(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(content)
    assert main(["migrate", str(file)]) == 2
    assert said in capsys.readouterr().err
    assert file.read_text() == content
    assert main(["migrate", str(tmp_path / "none.yaml")]) == 2


# texts

KEYS = st.text("abcd", min_size=1, max_size=2)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 99), st.floats(allow_nan=False, width=16),
    st.sampled_from(["", "x", "no", "1", "a: b", "# x", "two\nlines", "two\nlines\n", "${env:A}"]),
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
RECIPES = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """YAML in block or flow style, a comment behind every line that may have one."""
    data, flow = draw(RECIPES), draw(st.booleans())
    text = yaml.safe_dump(data, default_flow_style=True) if flow else dump_yaml(data)
    lines = [f"{line}  # c{n}" for n, line in enumerate(text.splitlines())]
    commented = "".join(f"{line}\n" for line in lines)
    try:
        same = values(commented) == values(text)
    except RecipeError:
        same = False
    return draw(st.sampled_from(["# top\n", ""])) + (commented if same else text)


@settings(max_examples=60, deadline=None)
@given(texts(), st.data())
def test_a_rewritten_text_has_the_new_values_and_every_comment_is_kept_or_named(
    text: str, data: st.DataObject
) -> None:
    new = values(text)
    for key in data.draw(st.lists(st.sampled_from(sorted(new)), unique=True)):
        new[key] = data.draw(VALUES)
    new |= data.draw(st.dictionaries(KEYS, VALUES, max_size=1))
    if data.draw(st.booleans()):
        new.pop(data.draw(st.sampled_from(sorted(new))))
    done = rewrite(text, new)
    assert json.dumps(values(done.text) if new else {}, sort_keys=True) == json.dumps(
        new, sort_keys=True
    )
    if text.count("# c") and "# x" not in text:
        for said in text.split("# ")[1:]:
            comment = "# " + said.split("\n")[0]
            assert comment in done.text or comment in dict(done.lost).values()


@settings(max_examples=50, deadline=None)
@given(texts())
def test_equal_values_keep_every_byte(text: str) -> None:
    assert rewrite(text, values(text)).text == text


@pytest.mark.parametrize(
    ("text", "new", "wanted"),
    [
        ("a: 1\r\nb: 2 # c\r\n", {"a": 1, "b": 3}, "a: 1\r\nb: 3 # c\r\n"),
        ("\ufeffa: 1\n", {"a": 2}, "a: 2\n"),
        ("a: {b: 1, c: 2} # c\n", {"a": {"b": 5, "c": 2}}, "a: {b: 5, c: 2} # c\n"),
        ("a: {b: 1} # c\n", {"a": {"x": 1}}, "a: {x: 1} # c\n"),
        ("a:\n  b: 1 # c\n", {"a": {"b": 1, "d": [2]}}, "a:\n  b: 1 # c\n  d:\n  - 2\n"),
        ("l:\n  - b: 1\n    c: 2\n", {"l": [{"c": 2}]}, "l:\n  - c: 2\n"),
        ("a: 1 # c", {"a": 1, "b": 2}, "a: 1 # c\nb: 2"),
        ("a: |\n  text\n\nb: 1\n", {"a": "text\n", "b": 2}, "a: |\n  text\n\nb: 2\n"),
        ("a: 1\nb: 2 # c\n", {"a": 1}, "a: 1\n"),
    ],
)
def test_what_stays_stays_as_it_was(text: str, new: Any, wanted: str) -> None:
    assert rewrite(text, new).text == wanted
