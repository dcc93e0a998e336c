"""Laws of model cards: what was done stands in them, and what others wrote in them stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import surgery
from surgery.flow.card import BEGIN, CARD, END, Card, Trained, card_of, placed, shown
from surgery.flow.recipe import plan_recipe
from surgery.flow.verify import verify
from surgery.hooks.registry import registry
from surgery.operate.journal import journal_of
from surgery.recipe.read import read_recipe
from tests.command import Ran

Run = Callable[..., Ran]
PLAIN = Card({"library_name": "model-surgery", "tags": ["model-surgery", "lora"]}, "## Text")


def front(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


def section(text: str) -> str:
    return text.split(BEGIN)[1].split(END)[0]


@pytest.fixture
def card(recipe: Path, run: Run) -> str:
    assert run("apply", recipe).status == 0
    return (recipe.parent / "out" / CARD).read_text("utf-8")


def test_a_card_says_what_was_done_where_and_on_which_base(card: str, base: Path) -> None:
    assert front(card) == {
        "library_name": "model-surgery", "tags": ["model-surgery", "freeze", "lora"],
    }  # fmt: skip
    said = section(card)
    assert "`model.layers.*.self_attn.q_proj` ×2<br>`model.layers.*.self_attn.v_proj` ×2" in said
    assert "`rank` `2`<br>`alpha` `4.0`" in said
    assert "8 tensors added, 0 changed, 0 removed" in said
    (digest,) = re.findall(r"`model.safetensors` \| [0-9,]+ \| `([0-9a-f]{64})`", said)
    assert digest == sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert str(base.parent) not in card


def test_what_a_card_tells_to_run_runs(
    recipe: Path, card: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent / "out")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    found: dict[str, Any] = {}
    exec(code, found)
    assert sum("lora" in name for name, _ in found["model"].named_parameters()) == 8
    (text,) = re.findall(r"```bash\n(.*?)```", card, re.S)
    commands = text.splitlines()
    assert [line.split()[1] for line in commands] == ["verify", "merge", "undo"]
    for line in commands:
        assert run(*line.split()[1:]).status == 0


def test_the_cards_of_merged_and_undone_outputs_tell_of_them(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    out = recipe.parent / "out"
    assert run("merge", out, "--into", recipe.parent / "merged").status == 0
    card = (recipe.parent / "merged" / CARD).read_text("utf-8")
    assert front(card)["library_name"] == "transformers"
    assert "This folder holds a whole model.\n0 tensors added, 4 changed" in card
    assert "surgery merge" not in card
    with surgery.load(out) as loaded:
        loaded.save(recipe.parent / "saved")
    assert (recipe.parent / "saved" / CARD).read_text() == (out / CARD).read_text()


def test_a_training_is_told_with_its_metric(recipe: Path) -> None:
    operation = plan_recipe(read_recipe(recipe, registry=registry()), registry())
    told = Trained({"steps": 40, "data": "a|b"}, {"loss": 0.123456789})
    said = card_of(operation, journal_of(operation.plan), None, told).section
    assert "| steps | `40` |\n| data | <code>a&#124;b</code> |" in said
    assert "| `loss` | 0.123457 |" in said


def test_an_edited_card_is_no_damage_and_stays_when_the_output_is_replaced(
    recipe: Path, run: Run
) -> None:
    assert run("apply", recipe).status == 0
    out = recipe.parent / "out"
    file = out / CARD
    mine = (
        file.read_text().replace("---\n\n<", "license: mit # ours\n---\n# Mine\n\n<") + "\nBye.\n"
    )
    file.write_text(mine)
    assert all(check.status != "failed" for check in verify(out, registry()))
    assert run("apply", recipe, "--force", "--set", "surgeries.1.with.rank=1").status == 0
    assert file.read_text() == mine.replace("`rank` `2`", "`rank` `1`").replace(
        *[re.findall(r"[0-9,]+ parameters, [0-9,]+", text)[0] for text in (mine, file.read_text())]
    )


def test_a_hostile_text_is_no_markup() -> None:
    hostile = "a`|<script>alert(1)</script>[x](javascript:y)\n# big --> ${HOME}"
    html = MarkdownIt("commonmark").enable("table").render(f"| x |\n|---|\n| {shown(hostile)} |\n")
    assert "<script" not in html
    assert "<a " not in html
    assert html.count("<td") == 1


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(blacklist_categories=()), max_size=12))
def test_any_text_is_shown_as_itself_in_one_cell(text: str) -> None:
    cell = shown(text)
    cell.encode("utf-8")
    assert "\n" not in cell
    assert "|" not in cell
    assert END not in cell
    tokens = MarkdownIt("commonmark").enable("table").parse(f"| a |\n|---|\n| x{cell}x |\n")
    (inline,) = [t for t in tokens if t.type == "inline" and t.content.startswith("x")]
    said = {one.type for one in inline.children or ()}
    assert said <= {"text", "code_inline", "html_inline", "text_special"}
    tags = [one.content for one in inline.children or () if one.type == "html_inline"]
    assert tags in ([], ["<code>", "</code>"])


# texts of others


OUTSIDE = st.text(st.sampled_from("ab #-`|<>!\n:é"), max_size=40)


@settings(max_examples=60, deadline=None)
@given(OUTSIDE, OUTSIDE)
def test_what_stands_outside_the_marks_stays_byte_for_byte(before: str, after: str) -> None:
    first = placed(f"---\nlicense: mit  # ours\n---\n{before}{BEGIN}\nold\n{END}{after}", PLAIN)
    assert first.endswith(f"---\n{before}{BEGIN}\n## Text\n{END}{after}")
    assert "license: mit  # ours\n" in first
    assert front(first) == {"license": "mit", **PLAIN.front}
    assert placed(first, PLAIN) == first


@settings(max_examples=100, deadline=None)
@given(OUTSIDE)
def test_a_text_without_marks_is_kept_before_ours(text: str) -> None:
    made = placed(text, PLAIN)
    assert f"\n{text}" in made
    assert made.count(BEGIN) == made.count(END) == 1
    assert placed(made, PLAIN) == made


def test_tags_of_others_stay_and_a_base_they_name_where_we_know_none() -> None:
    text = "---\ntags: [medical, lora]\nbase_model: org/base\nlibrary_name: other\n---\nText\n"
    assert front(placed(text, PLAIN)) == {
        "tags": ["medical", "lora", "model-surgery"],
        "base_model": "org/base",
        "library_name": "model-surgery",
    }


@pytest.mark.parametrize("matter", ["a: [", "- 1\n", "&x a: *x\n", "tags: {a: 1}\nb: *c\n"])
def test_front_matter_that_cannot_be_read_is_left_as_it_is(matter: str) -> None:
    text = f"---\n{matter.rstrip()}\n---\nText\n"
    assert placed(text, PLAIN).startswith(text)


@pytest.mark.parametrize(
    ("path", "named"),
    [("org/name", True), ("./org/name", False), ("https://host/a/b", False), ("name", False)],
)
def test_a_base_of_the_hub_is_named_and_no_other(path: str, named: bool) -> None:
    source = registry().source("hf").model_validate({"path": path})
    assert ("base_model" in source.card()) == named
    demo = registry().source("demo").model_validate({"model": "minilm"}).card()
    assert demo["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
