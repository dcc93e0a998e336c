"""The prefix: what was wrapped is recovered, what is ambiguous is refused, never guessed."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from surgery.checkpoint.legacy.names import clean, core
from surgery.checkpoint.legacy.reading import Wishes
from surgery.checkpoint.legacy.resolve import resolve_freely, resolve_towards
from surgery.checkpoint.legacy.solve import Prefix, solve
from surgery.errors import PatientError, RecipeError
from tests.adopt.kit import (
    INNER,
    NAMES,
    Shapes,
    declared_as,
    hollow,
    state_of,
    structures,
    wrappings,
)

FEW = settings(deadline=None, max_examples=30)


def resolved(held: Shapes, wanted: Shapes, wishes: Wishes = Wishes()) -> dict[str, str]:  # noqa: B008
    found = resolve_towards([state_of(hollow(held))], declared_as(wanted), wishes, "file")
    return {name: raw[0] for name, raw in found.sources.items()}


def oracle(held: Shapes, wanted: Shapes) -> set[frozenset[tuple[str, str]]]:
    """All best ways to meet, found by trying every pair of prefixes."""

    def beginnings(names: Shapes) -> set[str]:
        return {".".join(n.split(".")[:d]) for n in names for d in range(n.count(".") + 1)}

    ways = set()
    for old in beginnings(held):
        for new in beginnings(wanted):
            moved = ((n, Prefix(old, new).apply(n)) for n in held)
            ways.add(frozenset((n, m) for n, m in moved if m and wanted.get(m) == held[n]))
    most = max(map(len, ways), default=0)
    half = max(1, -(-min(len(held), len(wanted)) // 2))
    return {way for way in ways if len(way) == most} if most >= half else set()


@FEW
@given(st.data())
def test_whatever_wraps_a_whole_model_is_taken_off(data: st.DataObject) -> None:
    wanted = data.draw(structures())
    names = data.draw(wrappings(list(wanted)))
    found = resolved({names[name]: shape for name, shape in wanted.items()}, wanted)
    assert found == names


@FEW
@given(st.data())
def test_a_structure_that_uses_wrappers_names_itself_is_met_or_refused(
    data: st.DataObject,
) -> None:
    wanted = data.draw(structures((*NAMES[:3], *INNER)))
    names = data.draw(wrappings(list(wanted)))
    try:
        found = resolved({names[name]: shape for name, shape in wanted.items()}, wanted)
    except PatientError:
        return
    whole = {name: raw for name, raw in found.items() if name in wanted}
    assert all(names[name] == raw for name, raw in whole.items() if len(whole) == len(wanted))


@FEW
@given(st.data())
def test_the_solver_finds_what_trying_everything_finds(data: st.DataObject) -> None:
    wanted = data.draw(structures())
    top = data.draw(st.sampled_from(["", *sorted({n.split(".")[0] for n in wanted})]))
    part = {n: s for n, s in wanted.items() if not top or n.startswith(f"{top}.")}
    held = {data.draw(st.sampled_from(["p.", "", "a."])) + n: s for n, s in part.items()}
    assume(held)
    best = oracle(held, wanted)
    found = solve(held, wanted)
    assert len(found) == len(best)
    for prefix in found:
        moved = ((n, prefix.apply(n)) for n in held)
        assert frozenset((n, m) for n, m in moved if m and wanted.get(m) == held[n]) in best


@FEW
@given(structures(), structures())
def test_a_prefix_is_chosen_only_where_it_is_the_only_best(held: Shapes, wanted: Shapes) -> None:
    best = oracle(held, wanted)
    found = solve(held, wanted)
    assert len(found) == len(best)


@FEW
@given(st.data())
def test_two_equal_towers_and_one_file_are_refused(data: st.DataObject) -> None:
    tower = data.draw(structures())
    wanted = {f"{side}.{n}": s for side in ("left", "right") for n, s in tower.items()}
    head = data.draw(st.sampled_from(["", "module.", "student."]))
    with pytest.raises(PatientError, match="--prefix"):
        resolved({head + n: s for n, s in tower.items()}, wanted)


def test_a_stated_prefix_settles_it() -> None:
    wanted = {f"{side}.fc.weight": (2, 3) for side in ("left", "right")}
    found = resolved(
        {"module.net.fc.weight": (2, 3)}, wanted, Wishes(prefix=("module.net", "right"))
    )
    assert found == {"right.fc.weight": "module.net.fc.weight"}


def test_a_model_and_its_average_side_by_side_are_refused() -> None:
    wanted = {"fc.weight": (2, 3), "fc.bias": (2,)}
    held = {f"{top}.{n}": s for top in ("model", "ema_model") for n, s in wanted.items()}
    with pytest.raises(PatientError, match=r"model=.*ema_model=|ema_model=.*model="):
        resolved(held, wanted)


def test_shapes_decide_where_names_do_not() -> None:
    wanted = {"left.weight": (2, 3), "right.weight": (3, 2)}
    assert resolved({"x.weight": (3, 2)}, wanted) == {"right.weight": "x.weight"}


def test_of_two_state_dicts_the_one_that_fits_is_taken_and_a_tie_refused() -> None:
    wanted = declared_as({"fc.weight": (2, 3)})
    good, bad = hollow({"fc.weight": (2, 3)}), hollow({"fc.weight": (5, 5)})
    states = [state_of(bad, "disc"), state_of(good, "gen")]
    assert resolve_towards(states, wanted, Wishes(), "file").state.key == "gen"
    states.append(state_of(good, "ema"))
    with pytest.raises(PatientError, match="--key"):
        resolve_towards(states, wanted, Wishes(), "file")


def test_a_large_model_is_solved_quickly() -> None:
    wanted = {f"layers.{i}.experts.{j}.w.weight": (4, 4) for i in range(40) for j in range(64)}
    wanted |= {f"layers.{i}.norm.weight": (4,) for i in range(40)}
    held = {f"module.model.{name}": shape for name, shape in wanted.items()}
    found = solve({name.removeprefix("module."): s for name, s in held.items()}, wanted)
    assert [(one.old, one.new, one.matched) for one in found] == [("model", "", len(wanted))]


def test_a_small_component_of_a_large_model_is_solved() -> None:
    wanted = {f"lm.{i}.part{j}.weight": (4, 4) for i in range(100) for j in range(10)}
    wanted |= {f"resampler.{part}.weight": (3, 4) for part in "abcdef"}
    held = {f"module.old.{part}.weight": (3, 4) for part in "abcdef"}
    held |= {f"other.{i}.part.{j}.scale": (4, 4) for i in range(100) for j in range(10)}
    (found,) = solve(held, wanted, required=6)
    assert (found.old, found.new) == ("module.old", "resampler")


def test_a_small_part_of_a_large_file_does_not_take_forever() -> None:
    held = {f"l.{i}.e.{j}.weight": (4, 4) for i in range(40) for j in range(40)}
    wanted = {f"m.{i}.f.{j}.scale": (4, 4) for i in range(40) for j in range(40)}
    assert solve(held, wanted, required=2) == []


# Without a structure


@FEW
@given(st.data())
def test_without_a_structure_wrappers_own_names_go_and_nothing_else(data: st.DataObject) -> None:
    shapes = data.draw(structures())
    names = data.draw(wrappings(list(shapes)))
    held = {names[name]: shape for name, shape in shapes.items()}
    found = resolve_freely([state_of(hollow(held))], Wishes(), "file")
    for name, raw in found.sources.items():
        words = set(INNER) - {"module"}
        left = raw[0].split(".")
        assert not set(name.split(".")[:-1]) & words
        assert core(raw[0], words).endswith(name)
        assert [p for p in left if p not in INNER] == [p for p in name.split(".") if p != "module"]


def test_without_a_structure_module_goes_only_where_all_names_begin_with_it() -> None:
    assert clean(["module.a.w", "module.b"], "f").names == {"module.a.w": "a.w", "module.b": "b"}
    assert clean(["module.module.w"], "f").prefix == "module.module."
    assert clean(["module.a", "b"], "f").names == {"module.a": "module.a", "b": "b"}


def test_names_that_become_one_are_refused() -> None:
    with pytest.raises(PatientError, match="--drop"):
        clean(["a._orig_mod.w", "a.w"], "f")


def test_renames_are_whole_parts_and_must_change_something() -> None:
    wanted = {"enc.norm.weight": (2,), "enc.norms.gamma": (2,)}
    held = {"m.enc.norm.gamma": (2,), "m.enc.norms.gamma": (2,)}
    found = resolved(held, wanted, Wishes(renames=(("norm.gamma", "norm.weight"),)))
    assert found["enc.norm.weight"] == "m.enc.norm.gamma"
    with pytest.raises(RecipeError, match="--rename zzz="):
        resolved(held, wanted, Wishes(renames=(("zzz", ""),)))


def test_flattened_parameters_are_refused() -> None:
    with pytest.raises(PatientError, match="FULL_STATE_DICT"):
        resolve_freely(
            [state_of(hollow({"_fsdp_wrapped_module._flat_param": (9,)}))], Wishes(), "f"
        )
