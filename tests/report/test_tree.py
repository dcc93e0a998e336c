from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.anatomy.site import Anatomy, Site
from surgery.anatomy.walk import walk
from surgery.report.branches import branches
from surgery.report.html.anatomy import anatomy_html
from surgery.report.tree import anatomy_json
from tests.select.kit import Q, fused_model, two_towers, weight

HOSTILE = "<script>alert(1)</script>\x1b[31m'\"&\u202e"


def shown(anatomy: Anatomy) -> str:
    return str(anatomy)


def test_equal_layers_are_folded() -> None:
    text = shown(two_towers())
    assert "0-11 x12 Block 256 parameters each" in text
    assert text.count("q_proj") == 2
    assert "also head" in text


def test_a_layer_that_differs_is_shown_by_itself() -> None:
    sites = [weight(f"h.{n}.a", *([Q] if n == 2 else [])) for n in range(5)]
    text = shown(Anatomy(tuple(sites)))
    assert "0-1,3-4 x4" in text
    assert "─ 2 64 parameters" in text


def test_roles_rows_evidence_and_shapes_are_shown() -> None:
    text = shown(fused_model())
    assert "qkv Conv1D [8, 12] 96 parameters" in text
    assert "attention.q rows 0-1,10-11" in text
    assert "(trace)" in text
    assert "roles: attention.k 3" in text


def test_a_bias_stands_in_its_modules_line_and_a_parameter_with_a_role_in_its_own() -> None:
    bias = Site("a.bias", ("a.bias",), "a.bias", ("Parameter",), shape=(8,))
    raw = Site("a.w", ("a.w",), "a.w", ("Parameter",), frozenset([Q]), shape=(4, 2))
    lines = shown(Anatomy((weight("a"), bias, raw))).splitlines()
    assert lines[1].endswith("a Linear [8, 8] + bias [8] 80 parameters")
    assert "w Parameter [4, 2] 8 parameters attention.q" in lines[2]


def test_depth_cuts_the_tree_and_says_so() -> None:
    from surgery.report.console import rendered
    from surgery.report.tree import anatomy_tree

    text = rendered(anatomy_tree(two_towers(), 1))
    assert "q_proj" not in text
    assert "... 2 more below" in text
    assert rendered(anatomy_tree(two_towers(), 9)) == shown(two_towers())


def test_no_line_is_cut_where_stdout_is_no_terminal() -> None:
    path = "x" * 500
    assert path in shown(Anatomy((weight(path, *(f"role{n}" for n in range(50))),)))


def test_notes_are_shown() -> None:
    anatomy = Anatomy((weight("a"),), notes=("no forward was observed",))
    assert "note: no forward was observed" in shown(anatomy)
    assert "no forward was observed" in anatomy_html(anatomy)


def test_a_tied_weight_counts_once_and_says_what_it_is_tied_to() -> None:
    tied = replace(weight("head"), tied="embed.weight")
    anatomy = Anatomy((weight("embed"), tied))
    assert branches(anatomy).parameters == anatomy_json(anatomy)["parameters"] == 64
    assert "head Linear [8, 8] tied to embed.weight" in shown(anatomy)


def test_layers_of_which_one_is_tied_are_not_folded_together() -> None:
    sites = [weight("h.0.w"), *(replace(weight(f"h.{n}.w"), tied="h.0.w.weight") for n in (1, 2))]
    assert branches(sites).parameters == 64
    assert "1-2 x2" in shown(Anatomy(tuple(sites)))


def test_the_trainable_share_is_shown_where_it_was_counted() -> None:
    anatomy = Anatomy((weight("a"),), trainable=(16, 64))
    assert "trainable: 16 of the model's 64 parameters (25.00%)" in shown(anatomy)
    assert anatomy_json(anatomy)["trainable"] == [16, 64]
    assert "trainable:" not in shown(Anatomy((weight("a"),)))
    assert "(0.00%)" in shown(Anatomy((), trainable=(0, 0)))


def test_a_walk_counts_every_tensor_once() -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    model[2].weight = model[0].weight
    model[1].requires_grad_(False)
    found = walk(model, {"input": torch.empty(1, 8, device="meta")})
    assert found.trainable == (64 + 8 + 8, 64 + 8 + 64 + 8 + 8)
    assert branches(found).parameters == found.trainable[1]
    assert [site.tied for site in found if site.tied] == ["0.weight"]


def test_json_has_every_site_and_every_fact() -> None:
    found = anatomy_json(two_towers())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(found["sites"]) == len(two_towers())
    assert found["roles"] == two_towers().role_counts()
    site = anatomy_json(fused_model())["sites"][1]
    assert site["rows"]["attention.q"] == [[0, 2], [10, 12]]
    assert site["layer"] == {"number": 1, "container": "h", "count": 3}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += 1

    def handle_endtag(self, tag: str) -> None:
        self.open -= 1


@pytest.mark.parametrize("field", ["path", "type", "role", "note", "row"])
def test_names_of_strangers_are_harmless(field: str) -> None:
    bad = {
        key: HOSTILE if key == field else "fine" for key in ("path", "type", "role", "note", "row")
    }
    site = Site(
        bad["path"], (bad["path"],), bad["path"], (bad["type"],),
        frozenset([bad["role"], bad["row"]]), {bad["row"]: ((0, 1),)}, shape=(2,),
    )  # fmt: skip
    anatomy = Anatomy((site,), notes=(bad["note"],))
    parser = Tags()
    parser.feed(anatomy_html(anatomy))
    assert set(parser.tags) <= {"style", "div", "details", "summary", "span"}
    assert parser.open == 0
    for text in (anatomy_html(anatomy), shown(anatomy)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert anatomy._repr_html_() == anatomy_html(anatomy)


NAMES = st.lists(st.sampled_from(["0", "1", "2", "a"]), min_size=1, max_size=4).map(".".join)


@given(st.lists(st.tuples(NAMES, st.integers(1, 3)), unique_by=lambda pair: pair[0], max_size=30))
def test_folding_loses_no_parameter(found: list[tuple[str, int]]) -> None:
    sites = [Site(path, (path,), f"{path}.weight", ("L",), shape=(size, 2)) for path, size in found]
    assert branches(sites).parameters == sum(prod(site.shape) for site in sites)
