from __future__ import annotations

from typing import Any

import pytest

from surgery.anatomy.select import select
from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Anatomy
from surgery.errors import RecipeError, SelectionError, SurgeryError
from tests.select.kit import Q, fused_model, two_towers, weight

TWO, FUSED = two_towers(), fused_model()


def error(kind: type[SurgeryError], anatomy: Anatomy = TWO, **keys: Any) -> SurgeryError:
    with pytest.raises(kind) as caught:
        anatomy.select(**keys)
    assert type(caught.value) is kind
    return caught.value


def test_an_unknown_target_beside_a_known_one() -> None:
    found = error(SelectionError, path=["**.q_proj", "**.w_proj"])
    assert found.where == "select.path"
    assert "'**.w_proj'" in found.wanted
    assert "'q_proj'" in found.instead


def test_a_layer_that_no_container_has_beside_one_that_exists() -> None:
    found = error(SelectionError, role=Q, layers=["3", "99"])
    assert "text.layers has 12 layers, 0-11" in found.instead
    assert "vision.blocks has 4 layers, 0-3" in found.instead
    error(SelectionError, layers="99")
    error(SelectionError, role=Q, layers="4-12")
    error(SelectionError, layers="-13")


def test_only_containers_of_the_otherwise_selected_sites_count() -> None:
    assert len(TWO.select(role=Q, layers="8")) == 1
    found = error(SelectionError, role=Q, tower="vision", layers="8")
    assert "text.layers" not in found.instead


def test_layers_of_sites_that_lie_in_none() -> None:
    assert "lie in no layers" in error(SelectionError, role="head", layers=0).instead


@pytest.mark.parametrize(
    "exclude",
    [
        "**.w_proj",
        ["vision.**", "**.w_proj"],
        {"role": "mlp.up"},
        {"role": [Q, "mlp.up"], "tower": "vision"},
        {"layers": "20"},
        {"role": "no.role"},
        {"path": "vision.**", "exclude": "**.w_proj"},
    ],
)
def test_an_exclude_or_an_entry_of_one_that_takes_nothing_out(exclude: Any) -> None:
    assert error(SelectionError, role=Q, exclude=exclude).where.startswith("select.exclude[")


def test_an_exclude_that_leaves_nothing() -> None:
    found = error(SelectionError, role=Q, exclude="**")
    assert found.wanted == "at least one site"
    assert "attention.q (16)" in found.instead


def test_a_part_cannot_be_left_out_of_a_weight_that_is_selected_whole() -> None:
    found = error(SelectionError, FUSED, path="h.0.qkv", exclude={"role": Q})
    assert "selected whole" in found.found
    assert "role:" in found.instead


def test_an_unknown_role_shows_the_roles_with_their_counts() -> None:
    found = error(SelectionError, role="attention.query")
    assert found.found == "'attention.query'"
    assert "did you mean" in found.instead
    assert "attention.q (16)" in found.instead


def test_a_known_role_that_the_model_lacks_is_no_spelling_mistake() -> None:
    found = error(SelectionError, role=[Q, "resampler"])
    assert "did you mean" not in found.instead
    assert "layer (16)" in found.instead


def test_an_unknown_type_and_tower_show_what_is_there() -> None:
    assert "'Linear'" in (found := error(SelectionError, type="Liner").instead)
    assert "Block (16)" in found
    assert "text (61), vision (20)" in error(SelectionError, tower="audio").instead


def test_keys_that_match_but_not_together() -> None:
    found = error(SelectionError, role="mlp.up", path="**.q_proj")
    assert "the other keys" in found.wanted
    assert "q_proj" in found.found or "up" in found.found
    assert error(SelectionError, role=[Q, "head"], layers="3").where == "select.role"


def test_a_wrong_expect_shows_the_coverage() -> None:
    with pytest.raises(SelectionError) as caught:
        select(TWO, Selector(role=(Q,)), expect=6, where="recipe.yaml:9:5: surgeries[1].at")
    assert caught.value.where == "recipe.yaml:9:5: surgeries[1].expect"
    assert caught.value.wanted == "6 sites"
    assert "role attention.q: 16 sites in layers 0-11" in caught.value.found


def test_an_expect_of_one_is_one_site() -> None:
    with pytest.raises(SelectionError, match="1 site,"):
        select(TWO, Selector(role=(Q,)), expect=1)


def test_a_model_without_roles_says_why() -> None:
    anatomy = Anatomy((weight("a"),), notes=("no forward was observed (no inputs)",))
    found = error(SelectionError, anatomy, role=Q)
    assert "no forward was observed" in found.instead
    assert error(SelectionError, Anatomy(()), path="**")


@pytest.mark.parametrize(
    "keys",
    [
        {"path": "a["},
        {"path": "{a"},
        {"match": "(a"},
        {"match": "*"},
        {"layers": "3-"},
        {"layers": "x"},
        {"layers": "9-3"},
        {"layers": 1.5},
        {"layers": True},
        {"role": 3},
        {"role": []},
        {"role": None},
        {"path": ""},
        {"roles": Q},
        {"role": Q, "exclude": {"paths": "a"}},
        {"role": Q, "exclude": [3]},
    ],
)
def test_what_is_no_selector_is_an_error_of_the_recipe(keys: dict[str, Any]) -> None:
    assert error(RecipeError, **keys).where.startswith("select")


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    assert "'role'" in error(RecipeError, rule=Q).instead
