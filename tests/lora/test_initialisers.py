"""Adapters begin as their papers and PEFT say, and the base can always be had back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lora.layer import Linear as PeftLinear
from pydantic import ValidationError
from torch import nn
from transformers.pytorch_utils import Conv1D

import surgery
from surgery.errors import RefusedError
from surgery_plugins.surgeries.lora import Lora
from surgery_plugins.surgeries.lora.initialisers.quantise import BLOCK, code_book, quantised
from tests.lora.kit import adapters, part, place, site
from tests.lora.test_identity import CASES, DORA, EVERY, Case, built, run

CLOSE = ["pissa", {"use": "pissa", "iterations": 8}, "olora", "orthogonal"]
TAKING = ["pissa", "olora", "loftq", {"use": "loftq", "bits": 2, "rounds": 3}]


def named(init: Any) -> str:
    return init if isinstance(init, str) else "-".join(map(str, init.values()))


def weights(model: nn.Module, case: Case) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters() if n not in adapters(model)}


def peft_layer(layer: nn.Module, init: str, rank: int, alpha: int) -> PeftLinear:
    """Give a layer as PEFT begins it."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights=init, target_modules=["0"])
    config.fan_in_fan_out = isinstance(layer, Conv1D)
    model: Any = peft.get_peft_model(nn.Sequential(layer), config)
    return model.base_model.model[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("init", "build"),
    [
        ("pissa", lambda: nn.Linear(12, 9)),
        ("pissa", lambda: Conv1D(9, 12)),
        ("olora", lambda: nn.Linear(12, 9)),
        ("olora", lambda: nn.Linear(9, 12)),
    ],
)
def test_factors_and_base_are_those_of_peft(init: str, build: Any, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(build()).to(kind)
    layer = peft_layer(copy.deepcopy(model[0]), init, rank=4, alpha=6)
    place(model, [site(model, "0")], Lora(rank=4, alpha=6, init=init))
    a, b = adapters(model).values()
    theirs = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    signs = (a * theirs[0]).sum(1).sign()
    one_step = 1e-4 if kind is torch.float32 else torch.finfo(kind).eps  # PEFT rounds A and B too
    torch.testing.assert_close(a, signs[:, None] * theirs[0].float(), rtol=one_step, atol=2e-6)
    torch.testing.assert_close(b, signs * theirs[1].float(), rtol=one_step, atol=2e-6)
    base = layer.get_base_layer().weight
    torch.testing.assert_close(model[0].weight.float(), base.float(), rtol=one_step, atol=1e-6)
    assert model[0].weight.dtype == kind


def test_orthogonal_draws_both_factors_as_wide_as_peft_and_they_annul_each_other() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300))
    theirs = peft_layer(copy.deepcopy(model[0]), "orthogonal", rank=8, alpha=8)
    place(model, [site(model, "0")], Lora(rank=8, init="orthogonal"))
    a, b = (p.detach() for p in adapters(model).values())
    assert (b @ a).abs().max() < 1e-7
    for ours, other in ((a, theirs.lora_A["default"]), (b, theirs.lora_B["default"])):
        assert abs(float(ours.std() / other.weight.detach().std()) - 1) < 0.1
        assert torch.linalg.matrix_rank(ours) == torch.linalg.matrix_rank(other.weight) == 4


@DORA
@EVERY
@pytest.mark.parametrize("init", CLOSE, ids=named)
def test_outputs_stay_up_to_rounding(init: Any, case: Case, dora: bool) -> None:
    for kind, limit in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        if kind is torch.bfloat16 and case.inputs()[0].dtype is torch.int64:
            continue
        model = built(case).to(kind)
        inputs = tuple(x if x.dtype is torch.int64 else x.to(kind) for x in case.inputs())
        before = model(*inputs)
        rank = 4 if case.name == "conv2d in groups" else 2
        lora = Lora(rank=rank, alpha=3, dora=dora and case.dora, init=init)
        place(model, case.sites(model), lora)
        after = model(*inputs)
        before, after = (x[0] if isinstance(x, tuple) else x for x in (before, after))
        gap = (after.float() - before.float()).norm() / before.float().norm()
        assert gap <= limit


@EVERY
@pytest.mark.parametrize("init", TAKING, ids=named)
def test_undo_gives_the_base_its_exact_bits(init: Any, case: Case) -> None:
    model = built(case)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    out = run(model, case)
    transaction = place(model, case.sites(model), Lora(rank=2, init=init))
    changed = {n for n, p in weights(model, case).items() if not torch.equal(p, before[n])}
    assert changed == {one.parameter for one in case.sites(built(case))}
    transaction.rollback()
    assert {n for n, _ in model.named_parameters()} == set(before)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert torch.equal(run(model, case), out)


@pytest.mark.parametrize("init", TAKING, ids=named)
def test_rows_beside_those_of_a_part_keep_every_bit(init: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 18))
    before = model[0].weight.detach().clone()
    sites = [part(model, "0", "attention.q", (0, 3), (9, 12)),
             part(model, "0", "attention.v", (12, 18))]  # fmt: skip
    place(model, sites, Lora(rank=2, init=init))
    after = model[0].weight
    assert torch.equal(after[3:9], before[3:9])
    for rows in (slice(0, 3), slice(9, 12), slice(12, 18)):
        assert not torch.equal(after[rows], before[rows])
    whole = nn.Sequential(nn.Linear(6, 6))
    with torch.no_grad():
        whole[0].weight.copy_(torch.cat([before[0:3], before[9:12]]))
    place(whole, [site(whole, "0")], Lora(rank=2, init=init))
    torch.testing.assert_close(whole[0].lora_default_A, model[0].lora_default_q_A)
    torch.testing.assert_close(whole[0].weight, torch.cat([after[0:3], after[9:12]]))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(2, 9), inner=st.integers(2, 9), seed=st.integers(0, 99),
    alpha=st.floats(0.25, 8), rslora=st.booleans(), data=st.data(),
)  # fmt: skip
def test_pissa_is_the_best_approximation_at_any_scale(
    rows: int, inner: int, seed: int, alpha: float, rslora: bool, data: Any
) -> None:
    rank = data.draw(st.integers(1, min(rows, inner)))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inner, rows, dtype=torch.float64))
    weight = model[0].weight.detach().clone()
    lora = Lora(rank=rank, alpha=alpha, rslora=rslora, init="pissa")
    place(model, [site(model, "0")], lora)
    values = torch.linalg.svdvals(weight)
    left = torch.linalg.svdvals(model[0].weight)
    torch.testing.assert_close(left.max(), torch.cat([values, values.new_zeros(1)])[rank])
    a, b = adapters(model).values()
    scale = alpha / (rank**0.5 if rslora else rank)
    torch.testing.assert_close(model[0].weight + scale * b @ a, weight)
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))


def test_a_few_power_iterations_come_close_to_the_exact_decomposition() -> None:
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(40, 40))[0] for _ in range(2))
    weight = left @ torch.diag(0.6 ** torch.arange(40.0)) @ right
    found = []
    for iterations in (0, 16):
        model = nn.Sequential(nn.Linear(40, 40))
        with torch.no_grad():
            model[0].weight.copy_(weight)
        init = {"use": "pissa", "iterations": iterations}
        place(model, [site(model, "0")], Lora(rank=4, init=init))
        found.append([p.detach() for p in adapters(model).values()])
    for exact, other in zip(*found, strict=True):
        torch.testing.assert_close(exact, other, rtol=0, atol=1e-4)


def test_loftq_loses_less_than_rounding_and_more_rounds_lose_less() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 128)
    lost = []
    for rounds in (1, 5):
        model = nn.Sequential(nn.Linear(128, 64, bias=False))
        with torch.no_grad():
            model[0].weight.copy_(weight)
        lora = Lora(rank=8, alpha=20, init={"use": "loftq", "bits": 2, "rounds": rounds})
        place(model, [site(model, "0")], lora)
        seen = model(torch.eye(128)).T
        lost.append(float((seen - weight).norm()))
    assert lost[1] < lost[0] < float((quantised(weight[None], 2) - weight).norm())


def test_loftq_at_scale_one_is_peft_algorithm() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 128)
    residual, factors = weight.clone(), (torch.zeros(64, 8), torch.zeros(8, 128))
    for _ in range(3):
        rounded = quantised(residual[None], 4)[0]
        left, values, right = torch.linalg.svd(weight - rounded, full_matrices=False)
        root = values[:8].sqrt()
        factors = left[:, :8] * root, root[:, None] * right[:8]
        residual = weight - factors[0] @ factors[1]
    model = nn.Sequential(nn.Linear(128, 64, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    place(model, [site(model, "0")], Lora(rank=8, init={"use": "loftq", "rounds": 3}))
    a, b = adapters(model).values()
    torch.testing.assert_close(model[0].weight, rounded)
    torch.testing.assert_close(b @ a, factors[0] @ factors[1], rtol=1e-4, atol=1e-5)


NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
"""QLoRA, arXiv 2305.14314, appendix E."""


def test_the_code_book_of_four_bits_is_that_of_the_paper() -> None:
    assert code_book(4) == pytest.approx(NF4, abs=2e-6)
    assert [len(code_book(bits)) for bits in (2, 3)] == [4, 8]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5), inner=st.integers(1, 150), bits=st.sampled_from([2, 3, 4, 8]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_rounding_takes_the_nearest_value_and_changes_nothing_twice(
    rows: int, inner: int, bits: int, seed: int
) -> None:
    matrices = torch.randn(1, rows, inner, generator=torch.Generator().manual_seed(seed))
    once = quantised(matrices, bits)
    torch.testing.assert_close(quantised(once, bits), once, rtol=1e-6, atol=1e-7)
    if bits < 8:
        book = torch.tensor(code_book(bits))
        for block, found in zip(matrices.flatten().split(BLOCK), once.flatten().split(BLOCK),
                                strict=True):  # fmt: skip
            values = book * block.abs().max()
            best = (block[:, None] - values).abs().min(1).values
            torch.testing.assert_close((block - found).abs(), best, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_are_rounded_to_zeros(bits: int) -> None:
    assert not quantised(torch.zeros(1, 3, 70), bits).any()


@pytest.mark.parametrize("init", ["pissa", "olora", "loftq"])
@pytest.mark.parametrize("build", [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(2, 4, 3)])
def test_a_rank_that_the_weight_has_not_is_refused(init: str, build: Any) -> None:
    model = nn.Sequential(build())
    assert "rank 4, not 5" in str(Lora(rank=5, init=init).refuse(site(model, "0")))


def test_an_odd_rank_has_no_orthogonal_half() -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    assert "even" in str(Lora(rank=3, init="orthogonal").refuse(site(model, "0")))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids))


@pytest.mark.parametrize("init", ["pissa", "olora", "loftq"])
def test_a_tied_weight_is_not_taken_apart(init: str) -> None:
    model = Tied()
    with pytest.raises(RefusedError, match=r"table\.weight.*of its own.*head\.weight shares"):
        place(model, [site(model, "table")], Lora(rank=2, init=init))


def test_an_earlier_adapter_forbids_to_take_its_weight_apart_unless_told() -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    first = {"use": "lora", "at": {"path": "0"}, "with": {"rank": 2, "adapter": "one"}}
    second = {
        "use": "lora",
        "at": {"path": "0"},
        "with": {"rank": 2, "adapter": "two", "init": "pissa"},
    }
    with pytest.raises(surgery.SurgeryError, match="overlap: true"):
        surgery.apply(model, [first, second])
    surgery.apply(model, [first, {**second, "overlap": True}])


@pytest.mark.parametrize("init", [*TAKING, *CLOSE, "gaussian", "orthonormal"], ids=named)
def test_a_saved_result_loads_to_equal_bits(init: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    base = copy.deepcopy(model)
    step = {"use": "lora", "at": {"path": "0"}, "with": {"rank": 2, "init": init, "dora": True}}
    planned = surgery.plan(model, [step], seed=3)
    applied = surgery.apply(model, [step], seed=3)
    assert planned.after == applied.plan.after
    applied.save(tmp_path / "out")
    loaded = surgery.load(tmp_path / "out", copy.deepcopy(base))
    state = loaded.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    again = copy.deepcopy(base)
    surgery.apply(again, [step], seed=3)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    loaded.undo()
    assert all(torch.equal(t, base.state_dict()[n]) for n, t in loaded.model.state_dict().items())


def test_the_option_is_written_as_short_as_it_can_be() -> None:
    for init in ("kaiming", "pissa", {"use": "loftq", "bits": 2}):
        lora = Lora(init=init)
        assert lora.model_dump(mode="json")["init"] == init
        assert Lora.model_validate_json(lora.model_dump_json()) == lora
    assert Lora(init={"use": "loftq", "bits": 4}).model_dump(mode="json")["init"] == "loftq"


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("pisa", "did you mean pissa|pissa"),
        ({"bits": 4}, "name of an initialiser"),
        ({"use": "loftq", "bits": 5}, "bits"),
        ({"use": "pissa", "bits": 4}, "iterations"),
        ({"use": "eva"}, "data"),
        (4, "Initialiser"),
    ],
    ids=str,
)
def test_wrong_options_are_errors_that_help(init: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Lora(init=init)


PROMISES: list[tuple[Any, str]] = [
    ("kaiming", "equal"), ("gaussian", "equal"), ("orthonormal", "equal"), ("orthogonal", "close"),
    ("pissa", "close"), ("olora", "close"), ("loftq", "changed"), ({"use": "eva", "data": "x"},
    "equal"),
]  # fmt: skip


@pytest.mark.parametrize(("init", "promise"), PROMISES, ids=str)
def test_each_initialiser_says_what_the_outputs_are(init: Any, promise: str) -> None:
    assert Lora(init=init).at_init == promise


def test_the_cases_reach_every_kind_of_weight() -> None:
    kinds: set[Callable[..., Any]] = {case.build for case in CASES}
    assert len(kinds) == len(CASES) > 10
