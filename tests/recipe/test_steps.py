from __future__ import annotations

from typing import Any

import pytest

from surgery.anatomy.selector import Selector
from surgery.errors import Problems
from surgery.operate.step import Step
from surgery.recipe.steps import steps_from
from tests.recipe.fakes import OWNER, REGISTRY, Freeze, Lora, _Quiet


def test_dicts_surgeries_and_pairs_all_become_steps() -> None:
    ready = Step(Freeze(), Selector(path=("x",)))
    selector = Selector(role=("mlp",))
    steps = steps_from(
        [{"use": "lora", "at": {"role": "head"}, "with": {"shape": (2, 2)}, "expect": 1},
         (Lora(), selector), Freeze(), ready],
        REGISTRY,
    )  # fmt: skip
    assert steps[0].surgery == Lora(shape=(2, 2))
    assert (steps[0].at, steps[0].expect) == (Selector(role=("head",)), 1)
    assert (steps[1].at, steps[1].where, steps[1].plugin) == (selector, "steps[1]", OWNER)
    assert steps[2].at == Selector(path=("**",))
    assert steps[3] is ready


def test_all_mistakes_are_told_with_the_place_in_the_list() -> None:
    entries: list[Any] = [
        {"use": "lora", "with": {"rank": "eight"}},
        {"use": "loar"},
        3,
        (Lora(), {"role": "mlp"}),
        {"use": "lora", "with": {"text": object()}},
        Lora,
    ]
    with pytest.raises(Problems) as caught:
        steps_from(entries, REGISTRY)
    lines = str(caught.value).splitlines()
    assert lines[0] == "steps[0].with.rank: expected an integer > 0, got 'eight'"
    assert lines[1].startswith("steps[1].use: expected the name of a surgery, got 'loar'")
    assert [line.split(":")[0] for line in lines[2:]] == [
        "steps[2]", "steps[3]", "steps[4].with", "steps[5]",
    ]  # fmt: skip


def test_a_surgery_that_no_plugin_offers_has_no_owner() -> None:
    assert steps_from([_Quiet()], REGISTRY)[0].plugin == ("", "")
