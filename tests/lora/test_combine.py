"""Adapters are combined by PEFT's formulas, and the result is an adapter like any other."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from pydantic import ValidationError
from torch import nn
from transformers.pytorch_utils import Conv1D

import surgery
from surgery.errors import ConflictError, RefusedError, SelectionError
from surgery.operate.slots import seed_of
from surgery_plugins.surgeries.lora import Lora, LoraCombine
from surgery_plugins.surgeries.lora.adapters import disabled, select
from surgery_plugins.surgeries.lora.arithmetic import delta
from surgery_plugins.surgeries.lora.combine import combine
from surgery_plugins.surgeries.lora.mixing import Mix
from tests.lora.kit import place, site, stir
from tests.lora.test_identity import EVERY, Case, built, run

FACTORWISE = ["linear", "ties", "magnitude_prune"]
EXACT = ["cat", "svd"]
DECOMPOSED = ["svd", "ties_svd", "magnitude_prune_svd"]
DRAWN = ["dare_linear", "dare_ties"]
WEIGHTS = {"one": 0.7, "two": -0.4}
LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(6, 7),
    "Conv1D": lambda: Conv1D(7, 6),
    "embedding": lambda: nn.Embedding(9, 6),
    "conv2d": lambda: nn.Conv2d(4, 6, 3),
}


class Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def grown(name: str, ranks: dict[str, int]) -> nn.Module:
    """Give a layer with stirred adapters."""
    torch.manual_seed(0)
    model = Net(LAYERS[name]()).eval()
    for number, (adapter, rank) in enumerate(ranks.items()):
        place(model, [site(model, "layer")], Lora(rank=rank, alpha=3 + number, adapter=adapter))
    stir(model)
    return model


def in_peft(model: nn.Module, name: str) -> Any:
    """Give the same adapters in PEFT."""
    theirs: Any = None
    for number, (adapter, branch) in enumerate(branches(model).items()):
        config = peft.LoraConfig(
            r=branch.rank, lora_alpha=3 + number, target_modules={"layer"},
            fan_in_fan_out=name == "Conv1D",
        )  # fmt: skip
        if theirs is None:
            torch.manual_seed(0)
            theirs = peft.get_peft_model(Net(LAYERS[name]()).eval(), config, adapter_name=adapter)
        else:
            theirs.add_adapter(adapter, config)
        for own, other in zip(tensors(model, adapter), peft_tensors(theirs, adapter), strict=True):
            other.data.copy_(own.view_as(other))
    return theirs


def branches(model: Any) -> dict[str, Any]:
    table = model.layer._surgery_extensions.values()
    return {extend.settings.adapter: extend.settings for extend in table}


def tensors(model: Any, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
    branch = branches(model)[adapter]
    return getattr(model.layer, branch.a).detach(), getattr(model.layer, branch.b).detach()


def peft_tensors(model: Any, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
    layer = model.base_model.model.layer
    if adapter in layer.lora_embedding_A:
        return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def change(model: Any, adapter: str) -> torch.Tensor:
    branch = branches(model)[adapter]
    weight = model.layer._parameters[branch.leaf]
    return delta(branch, *tensors(model, adapter), weight.shape, branch.scale)


def options(how: str) -> dict[str, Any]:
    return {} if how in ("linear", "cat", "svd") else {"density": 0.4}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("how", [*FACTORWISE, "cat"])
def test_factors_are_those_of_peft(how: str, name: str) -> None:
    model = grown(name, {"one": 4, "two": 4})
    theirs = in_peft(model, name)
    theirs.add_weighted_adapter([*WEIGHTS], [*WEIGHTS.values()], "new", how, **options(how))
    combine(model, WEIGHTS, into="new", how=how, **options(how))  # type: ignore[arg-type]
    for own, other in zip(tensors(model, "new"), peft_tensors(theirs, "new"), strict=True):
        torch.testing.assert_close(own, other.detach().view_as(own), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("how", DECOMPOSED)
def test_changes_are_those_of_peft_for_other_ranks_too(how: str, name: str, majority: Any) -> None:
    model = grown(name, {"one": 4, "two": 3})
    theirs = in_peft(model, name)
    theirs.add_weighted_adapter(
        [*WEIGHTS], [*WEIGHTS.values()], "new", how, svd_rank=5,
        majority_sign_method=majority, **options(how),
    )  # fmt: skip
    more: dict[str, Any] = {"how": how, "rank": 5, "majority": majority, **options(how)}
    combine(model, WEIGHTS, into="new", **more)
    want = theirs.base_model.model.layer.get_delta_weight("new").detach()
    torch.testing.assert_close(change(model, "new"), want, rtol=1e-4, atol=1e-5)
    assert branches(model)["new"].rank == 5


@pytest.mark.parametrize("how", DRAWN)
def test_dare_drops_and_rescales_as_peft_does(how: str) -> None:
    tensors = [torch.randn(4, 6), torch.randn(4, 6)]
    mine = Mix(how, 0.4, "total", 5, "layer.lora_new")(tensors, [0.7, -0.4], "A")
    torch.manual_seed(seed_of(5, "layer.lora_new.A"))
    theirs = getattr(merge_utils, how)(tensors, torch.tensor([0.7, -0.4]), 0.4)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("how", [*DRAWN, "dare_linear_svd", "dare_ties_svd"])
def test_dare_follows_its_seed(how: Any) -> None:
    found = []
    for seed in (1, 1, 2):
        model = grown("linear", {"one": 4, "two": 4})
        combine(model, WEIGHTS, into="new", how=how, density=0.5, seed=seed)
        found.append(change(model, "new"))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_dare_that_drops_nothing_is_linear() -> None:
    found = []
    for how, more in (("linear", {}), ("dare_linear", {"density": 1.0})):
        model = grown("linear", {"one": 4, "two": 4})
        combine(model, WEIGHTS, into="new", how=how, **more)  # type: ignore[arg-type]
        found.append(change(model, "new"))
    torch.testing.assert_close(*found)


@EVERY
@pytest.mark.parametrize("how", EXACT)
def test_a_combination_adds_the_weighted_sum_of_what_its_adapters_add(how: Any, case: Case) -> None:
    model = built(case)
    sites = case.sites(model)
    for adapter, rank in {"one": 2, "two": 4}.items():
        place(model, sites, Lora(rank=rank, adapter=adapter, alpha=3))
    stir(model)
    with torch.no_grad():
        both = run(model, case)
        step = {"use": "lora-combine", "with": {"weights": {"one": 1.0, "two": 1.0},
                "into": "new", "how": how, **({"rank": 6} if how == "svd" else {})}}  # fmt: skip
        applied = surgery.apply(model, [step])
        assert torch.equal(run(model, case), both)
        select(model, ["new"])
        torch.testing.assert_close(run(model, case), both, rtol=2e-4, atol=2e-4)
        with disabled(model):
            torch.testing.assert_close(run(model, case), run(built(case), case), rtol=0, atol=0)
        select(model, ["one", "two"])
        assert torch.equal(run(model, case), both)
        applied.undo()
        assert torch.equal(run(model, case), both)
    names = set(dict(built(case).named_parameters()))
    assert len(dict(model.named_parameters())) == len(names) + 4 * len(sites)


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 99),
    weights=st.lists(st.floats(-2, 2), min_size=3, max_size=3), how=st.sampled_from(EXACT),
)  # fmt: skip
def test_exact_methods_are_exact(
    ranks: list[int], seed: int, weights: list[float], how: Any
) -> None:
    names = dict(zip(("one", "two", "three"), ranks, strict=False))
    model = grown("linear", names)
    stir(model, seed)
    given_ = dict(zip(names, weights, strict=False))
    more: Any = {"rank": sum(ranks)} if how == "svd" else {}
    combine(model, given_, into="new", how=how, **more)
    want = sum(weight * change(model, name) for name, weight in given_.items())
    torch.testing.assert_close(change(model, "new"), want, rtol=1e-4, atol=1e-4)


def test_svd_of_a_smaller_rank_is_the_best_of_that_rank() -> None:
    model = grown("linear", {"one": 3, "two": 3})
    combine(model, WEIGHTS, into="new", rank=2)
    whole = sum(weight * change(model, name) for name, weight in WEIGHTS.items())
    gap = torch.linalg.svdvals(whole - change(model, "new")).max()
    torch.testing.assert_close(gap, torch.linalg.svdvals(whole)[2], rtol=1e-4, atol=1e-5)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    steps = [
        {"use": "lora", "at": {"path": ["0", "1"]}, "with": {"rank": 2, "adapter": "one"}},
        {"use": "lora", "at": {"path": "1"}, "with": {"rank": 2, "adapter": "two"}},
    ]
    surgery.apply(model, steps)
    stir(model)
    return model


def test_a_layer_that_has_only_some_of_the_adapters_takes_those() -> None:
    model = two_layers()
    combine(model, {"one": 2.0, "two": 1.0}, into="new", how="cat")
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if "_new_" in n}
    assert shapes == {
        "0.lora_new_A": (2, 6), "0.lora_new_B": (6, 2),
        "1.lora_new_A": (4, 6), "1.lora_new_B": (6, 4),
    }  # fmt: skip


def test_selected_sites_alone_are_combined_and_the_plan_says_so() -> None:
    model = two_layers()
    step = {"use": "lora-combine", "at": {"path": "1"}, "expect": 1,
            "with": {"weights": {"one": 1.0, "two": 1.0}, "into": "new"}}  # fmt: skip
    plan = surgery.plan(model, [step])
    assert [row.name for row in plan.added] == ["1.lora_new_A", "1.lora_new_B"]
    assert not any(row.trainable for row in plan.added)
    assert [site.path for site in plan.steps[0].sites] == ["1"]
    assert "lora_new_A" not in dict(model[1].named_parameters())


def test_a_saved_combination_loads_to_equal_bits(tmp_path: Any) -> None:
    model = two_layers()
    base = copy.deepcopy(model)
    applied = combine(model, {"one": 1.0, "two": -0.5}, into="new", how="dare_linear_svd",
                      density=0.5, seed=4)  # fmt: skip
    applied.save(tmp_path / "out")
    loaded = surgery.load(tmp_path / "out", copy.deepcopy(base))
    state = loaded.model.state_dict()
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    x = torch.randn(2, 6)
    assert torch.equal(loaded.model(x), model(x))
    for one in (model, loaded.model):
        select(one, ["new"])
    assert torch.equal(loaded.model(x), model(x))
    loaded.undo()
    assert set(loaded.model.state_dict()) == set(base.state_dict())


def test_in_one_recipe_adapters_are_placed_and_combined() -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    begin = [{"use": "lora", "with": {"rank": 2, "adapter": name, "init": "orthogonal"}}
             for name in ("one", "two")]  # fmt: skip
    mix = {"use": "lora-combine",
           "with": {"weights": {"one": 1.0, "two": 1.0}, "into": "new", "how": "cat"}}  # fmt: skip
    at = {"path": "0"}
    surgery.apply(model, [{**begin[0], "at": at}, {**begin[1], "at": at}, mix])
    want = torch.cat([model[0].lora_one_A, model[0].lora_two_A])
    assert torch.equal(model[0].lora_new_A, want)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"weights": {"one": 1.0, "tow": 1.0}}, SelectionError, "two"),
    ({"into": "two"}, ValidationError, "new name"),
    ({"weights": {"one": 1.0}, "into": "two"}, ConflictError, "new name"),
    ({"how": "linear"}, RefusedError, "equal ranks"),
]


@pytest.mark.parametrize(("more", "kind", "said"), REFUSED, ids=str)
def test_what_cannot_be_combined_is_refused(
    more: dict[str, Any], kind: type[Exception], said: str
) -> None:
    model = grown("linear", {"one": 2, "two": 3})
    given_ = {"weights": WEIGHTS, "into": "new", **more}
    with pytest.raises((kind, surgery.SurgeryError), match=said):
        combine(model, given_.pop("weights"), **given_)
    assert "lora_new_A" not in dict(model.named_parameters())


def test_dora_is_refused() -> None:
    model = Net(nn.Linear(6, 6))
    place(model, [site(model, "layer")], Lora(rank=2, adapter="one", dora=True))
    with pytest.raises(RefusedError, match="DoRA"):
        combine(model, {"one": 1.0}, into="new")


@pytest.mark.parametrize(
    "wrong",
    [{"how": "ties"}, {"density": 0.5}, {"density": 0.0, "how": "ties"}, {"how": "sum"},
     {"how": "cat", "rank": 4}, {"weights": {}}, {"into": "a_b"}],
    ids=str,
)  # fmt: skip
def test_options_that_do_not_fit_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraCombine(**{"weights": {"one": 1.0}, "into": "new", **wrong})
