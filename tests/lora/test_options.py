"""Options do what they say, and what cannot be done is refused with a reason."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from surgery.errors import RefusedError
from surgery.operate.edits import SetTrainable
from surgery.operate.patient import Patient
from surgery_plugins.surgeries.lora import Lora
from tests.lora.kit import adapters, part, place, site
from tests.lora.test_identity import Experts


def edits(lora: Lora, model: nn.Module, *sites: Any) -> list[Any]:
    return list(lora.operate(sites, Patient(model)))


def test_patterns_by_path_and_by_role_set_rank_and_alpha() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    sites = [site(model, "0"), site(model, "1", roles=frozenset({"mlp.up"})), site(model, "2")]
    lora = Lora(rank=2, alpha=4, rank_pattern={"0": 3, "mlp.up": 5}, alpha_pattern={"mlp.up": 20})
    settings = [edit.settings for edit in edits(lora, model, *sites)]
    assert [s.rank for s in settings] == [3, 5, 2]
    assert [s.scale for s in settings] == pytest.approx([4 / 3, 4, 2])
    place(model, sites, lora)
    assert [layer.lora_default_A.shape[0] for layer in model] == [3, 5, 2]


@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_meets_no_site_is_an_error(option: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    with pytest.raises(RefusedError, match=r"'0\.up', which meets none of 1"):
        edits(Lora(**{option: {"0.up": 4}}), model, site(model, "0"))


def trained(bias: str) -> set[str]:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6, bias=False))
    model.append(nn.MultiheadAttention(6, 2))
    sites = [site(model, "0"), site(model, "2"), site(model, "3.in_proj_weight")]
    found = edits(Lora(rank=2, bias=bias), model, *sites)
    return {e.name for e in found if isinstance(e, SetTrainable) and e.trainable}


def test_biases_train_where_they_are_asked_to() -> None:
    assert trained("none") == set()
    assert trained("lora") == {"0.bias", "3.in_proj_bias"}
    assert trained("all") == {"0.bias", "1.bias", "3.in_proj_bias", "3.out_proj.bias"}


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: nn.Linear(12, 10), "0"),
        (lambda: nn.Conv2d(4, 10, 3), "0"),
        (lambda: nn.Conv1d(12, 10, 1), "0"),
        (Experts, "0.up"),
    ],
    ids=["linear", "conv2d", "conv1d", "experts"],
)
def test_a_is_drawn_as_told_and_b_is_zero(build: Any, path: str) -> None:
    for init in ("kaiming", "gaussian", "orthonormal"):
        model = nn.Sequential(build())
        place(model, [site(model, path)], Lora(rank=4, init=init))
        found = list(adapters(model).values())
        a, b = found[0].detach(), found[1].detach()
        flat = a if path == "0.up" else a.flatten(1)
        fan = flat.shape[-1]
        assert not b.any()
        if init == "kaiming":
            assert 0.5 / fan**0.5 < a.abs().max() <= 1 / fan**0.5
        elif init == "gaussian":
            assert 0.1 < a.std() < 0.45  # 1 / r
        else:
            eye = torch.eye(4).expand(*flat.shape[:-2], 4, 4)
            torch.testing.assert_close(flat @ flat.mT, eye, rtol=0, atol=1e-5)


def test_of_an_embedding_a_is_zero_and_b_is_drawn() -> None:
    for init in ("kaiming", "gaussian", "orthonormal"):
        model = nn.Sequential(nn.Embedding(50, 40))
        place(model, [site(model, "0")], Lora(rank=4, init=init))
        a, b = model[0].lora_default_A, model[0].lora_default_B
        assert not a.any()
        assert (a.shape, b.shape) == ((4, 50), (40, 4))
        want = 40**-0.5 if init == "orthonormal" else 1.0
        assert 0.8 * want < b.std() < 1.2 * want


REFUSED = [
    (lambda: nn.LayerNorm(6), {}, {}, "is no matrix"),
    (lambda: nn.ConvTranspose1d(4, 6, 3), {}, {}, "what ConvTranspose1d does with its weight"),
    (lambda: nn.Linear(6, 4), {"init": "orthonormal", "rank": 7}, {}, "7 rows of 6 numbers"),
    (
        lambda: nn.Linear(6, 6),
        {"bias": "lora"},
        {"roles": frozenset({"attention.q"}), "rows": {"attention.q": ((0, 2),)}},
        "its bias belongs to other rows",
    ),
]


@pytest.mark.parametrize(("build", "options", "more", "why"), REFUSED, ids=lambda v: str(v)[:20])
def test_sites_are_refused_with_a_reason(build: Any, options: Any, more: Any, why: str) -> None:
    model = nn.Sequential(build())
    assert why in str(Lora(**options).refuse(site(model, "0", **more)))


def test_modules_without_a_weight_and_experts_with_dora_are_refused() -> None:
    model = Experts()
    assert "no weight" in str(Lora().refuse(replace(site(model, "up"), parameter=None)))
    assert "expert" in str(Lora(dora=True).refuse(site(model, "up")))
    assert "no axis" in str(Lora().refuse(site(model, "up", out_axis=0, in_axis=1)))


UNPLACEABLE = [
    (lambda: nn.Conv2d(6, 6, 3, groups=3), "0", {"rank": 4}, {}, "a rank that its 3 groups divide"),
    (lambda: nn.Embedding(6, 6), "0", {"dropout": 0.1}, {}, "token ids cannot be dropped"),
    (lambda: nn.Linear(6, 6), "0", {"dropout": 0.1}, {"direct": True}, "dropout 0, because"),
    (lambda: nn.MultiheadAttention(6, 2), "0.out_proj", {"dropout": 0.1}, {}, "dropout 0, because"),
    (lambda: nn.Embedding(6, 6, max_norm=1.0), "0", {}, {}, "max_norm"),
    (lambda: whole_numbers(), "0", {}, {}, "int8"),
]


def whole_numbers() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.weight = nn.Parameter(torch.ones(6, 6, dtype=torch.int8), requires_grad=False)
    return layer


@pytest.mark.parametrize(("build", "path", "options", "more", "why"), UNPLACEABLE)
def test_what_only_the_model_shows_is_refused_too(
    build: Any, path: str, options: Any, more: Any, why: str
) -> None:
    model = nn.Sequential(build())
    with pytest.raises(RefusedError, match=why) as caught:
        edits(Lora(**options), model, site(model, path, **more))
    assert caught.value.instead


def test_a_rank_beyond_the_weight_is_noted() -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    (note,) = Lora(rank=8).notes([site(model, "0")], Patient(model))
    assert note == "0: rank 8 is more than the 3 that its weight can have"
    assert not list(Lora(rank=3).notes([site(model, "0")], Patient(model)))


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"adapter": "A"},
     {"adapter": "a_b"}, {"adapter": ""}, {"init": "zeros"}, {"ranks": 8},
     {"rank_pattern": {"a": 0}}],
)  # fmt: skip
def test_options_out_of_range_are_errors(options: Any) -> None:
    with pytest.raises(ValidationError):
        Lora(**options)


def test_a_subclass_that_computes_something_else_takes_the_adapter_in_its_weight() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * super().forward(x)

    model = nn.Sequential(Scaled(6, 4, bias=False)).double()
    place(model, [site(model, "0")])
    x = torch.randn(2, 6, dtype=torch.float64)
    with torch.no_grad():
        model[0].lora_default_B.fill_(1.0)
    want = 3 * x @ (model[0]._parameters["weight"] + model[0].lora_default_B
                    @ model[0].lora_default_A).T  # fmt: skip
    torch.testing.assert_close(model(x), want)


def test_every_site_has_one_extension_named_for_adapter_and_part() -> None:
    model = nn.Sequential(nn.Linear(6, 18), nn.MultiheadAttention(6, 2))
    found = edits(
        Lora(rank=2),
        model,
        site(model, "0"),
        part(model, "0", "attention.q", (0, 6)),
        part(model, "1.in_proj_weight", "attention.q", (0, 6)),
    )
    assert [(e.path, e.name) for e in found] == [
        ("0", "lora.default"),
        ("0", "lora.default.q"),
        ("1", "lora.default.in_proj_weight.q"),
    ]
    assert [sorted(e.tensors) for e in found] == [
        ["lora_default_A", "lora_default_B"],
        ["lora_default_q_A", "lora_default_q_B"],
        ["lora_default_in_proj_weight_q_A", "lora_default_in_proj_weight_q_B"],
    ]


def test_reading_the_options_imports_no_torch() -> None:
    code = "import sys; from surgery_plugins.surgeries.lora import Lora; Lora(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
