from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.anatomy.select import Selection, select
from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Anatomy, Site
from surgery.errors import SelectionError
from tests.select.kit import QKV, K, Q, V, fused_model, two_towers, weight

TWO, FUSED = two_towers(), fused_model()


def paths(selection: Selection) -> list[str]:
    return [site.path for site in selection]


def test_the_root_and_everything_is_selected_by_two_stars() -> None:
    assert tuple(TWO.select(path="**")) == TWO.sites
    assert tuple(TWO.select()) == TWO.sites


def test_every_path_of_a_site_and_its_parameter_name_count() -> None:
    for name in ("text.embed", "head", "text.embed.weight"):
        assert paths(TWO.select(path=name)) == ["text.embed"]
        assert paths(TWO.select(match=name)) == ["text.embed"]


def test_a_regular_expression_must_match_the_whole_path() -> None:
    assert len(TWO.select(match=r".*\.q_proj")) == 16
    assert paths(TWO.select(match=r"text\.layers\.(\d)\1\.up")) == ["text.layers.11.up"]
    both = TWO.select(match=[r"text.layers.(1)\1.up", r"(?i)SCALE"])
    assert paths(both) == ["text.layers.11.up", "scale"]


def test_base_classes_count() -> None:
    assert paths(TWO.select(type="PreTrainedModel")) == [""]
    assert len(TWO.select(type=["Linear", "Embedding"])) == 65


def test_layers_are_counted_in_each_container() -> None:
    assert paths(TWO.select(role="layer", layers=-1)) == ["text.layers.11", "vision.blocks.3"]
    assert len(TWO.select(role=Q, layers="0-11/2")) == 6 + 2
    assert len(TWO.select(role=Q, layers=["4-11", 0])) == 8 + 2
    assert len(TWO.select(role=Q, tower="text", layers="-4--1")) == 4


def test_all_keys_must_hold_and_any_entry_will_do() -> None:
    found = TWO.select(role=[Q, V], path="text.**", layers="3-5", tower="text")
    assert len(found) == 6
    assert {site.layer.number for site in found if site.layer} == {3, 4, 5}


KEYS = {
    "role": ["layer", Q, V, "mlp.up"],
    "path": ["text.**", "**.q_proj", "**.up", "vision.**"],
    "type": ["Linear", "Block"],
    "tower": ["text", "vision"],
    "layers": ["0", "-1", "1-2"],
}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            k: st.lists(st.sampled_from(v), min_size=1, unique=True) for k, v in KEYS.items()
        },
    )
)
def test_a_selection_is_what_the_keys_say_one_by_one(keys: dict[str, list[str]]) -> None:
    alone = {
        key: [set(paths(TWO.select(**{key: e}))) for e in found] for key, found in keys.items()
    }
    everything = {site.path for site in TWO}
    wanted = everything.intersection(*(set().union(*found) for found in alone.values()))
    if all(one & wanted for found in alone.values() for one in found):
        assert paths(TWO.select(**keys)) == [site.path for site in TWO if site.path in wanted]
    else:
        with pytest.raises(SelectionError):
            TWO.select(**keys)


def test_a_role_of_a_fused_weight_selects_its_rows() -> None:
    found = FUSED.select(role=[V, Q], layers=1)
    assert [(s.path, s.part) for s in found] == [("h.1.qkv", Q), ("h.1.qkv", V)]
    assert found[0].rows == {Q: ((0, 2), (10, 12))}
    assert [s.part for s in FUSED.select(role=QKV)] == [None] * 3
    assert [s.part for s in FUSED.select(path="h.*.qkv")] == [None] * 3


def test_the_whole_holds_its_parts_so_nothing_is_selected_twice() -> None:
    assert [s.part for s in FUSED.select(role=[Q, QKV])] == [None] * 3
    assert len(FUSED.select(role=[Q, Q])) == 3
    assert len(TWO.select(role=["embedding", "head"])) == 1


def test_excludes_leave_sites_out() -> None:
    found = TWO.select(role=Q, exclude=["vision.**", {"layers": "0-9"}])
    assert paths(found) == ["text.layers.10.attn.q_proj", "text.layers.11.attn.q_proj"]
    assert len(TWO.select(role=Q, exclude={"path": "**", "exclude": {"layers": "3"}})) == 2
    assert [s.part for s in FUSED.select(role=[Q, K, V], layers=0, exclude={"role": K})] == [Q, V]
    assert len(FUSED.select(role=[Q, K], exclude={"role": QKV, "layers": "0-1"})) == 2


@pytest.mark.parametrize("roles", [list(r) for n in (1, 2, 3) for r in combinations([Q, K, V], n)])
def test_excluding_parts_is_the_same_as_not_asking_for_them(roles: list[str]) -> None:
    rest = [role for role in (Q, K, V) if role not in roles]
    if rest:
        left = FUSED.select(role=[Q, K, V], exclude={"role": roles})
        assert [s.rows for s in left] == [s.rows for s in FUSED.select(role=rest)]


def test_a_selection_counts_prints_and_indexes() -> None:
    found = TWO.select(role=[Q, V], layers="3-5,8", tower="text", expect=8)
    assert len(found) == len(list(found)) == 8
    assert found[0].path == "text.layers.3.attn.q_proj"
    assert isinstance(found[:2], tuple)
    assert found.coverage() == [
        "tower text: 8 sites in layers 3-5,8",
        "role attention.q: 4 sites in layers 3-5,8",
        "role attention.v: 4 sites in layers 3-5,8",
        "layers 3-5,8: 8 sites in layers 3-5,8",
    ]
    assert str(found).splitlines()[0] == "8 sites in layers 3-5,8"
    assert "  ... and 45 more" in str(TWO.select(type=["Linear", "Embedding"]))


def test_coverage_tells_what_is_left_after_excludes() -> None:
    found = TWO.select(role=[Q, V], exclude={"role": V, "layers": "0-10"})
    assert found.coverage()[1] == "role attention.v: 1 site in layers 11"


def test_a_role_that_a_family_adds_is_selected_too() -> None:
    anatomy = Anatomy((weight("a", "gate.secret"), weight("b")))
    assert paths(anatomy.select(role="gate.secret")) == ["a"]


def test_selecting_does_not_import_torch() -> None:
    code = (
        "import sys; from surgery.anatomy.site import Anatomy, Site; "
        "Anatomy((Site('a', ('a',)),)).select(path='*'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_many_sites_are_read_in_one_pass() -> None:
    reads: list[str] = []

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            reads.append(str(self))
            return super().__eq__(other)

        __hash__ = str.__hash__

    sites = tuple(Site(f"a.{n}", (f"a.{n}",), tower=Counted("text")) for n in range(500))
    select(Anatomy(sites), Selector(tower=("text",), path=("a.*", "a.4*", "a.{5,6}")))
    assert len(reads) <= 2 * len(sites)
