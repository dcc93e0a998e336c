"""Every kind in every host: the host's own forward calls it, and undo gives the exact bits."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery.anatomy.walk import walk
from surgery.errors import RefusedError
from surgery.operate.patient import Patient
from surgery_plugins.families.vlm import VisionLanguage
from surgery_plugins.surgeries.resampler.kinds import KINDS
from tests.resampler.kit import HOSTS, PATHS, SIZES, TOKENS, equal, inputs, state, step

FAST = dict(zip(KINDS, [*HOSTS, *HOSTS, *HOSTS], strict=False))
PAIRS = [
    pytest.param(host, kind, marks=() if FAST[kind] == host else pytest.mark.slow)
    for host in HOSTS
    for kind in KINDS
]


@pytest.mark.parametrize(("host", "kind"), PAIRS)
def test_a_host_calls_any_connector_and_it_learns(host: str, kind: str) -> None:
    model = HOSTS[host]()
    before = state(model)
    applied = surgery.apply(model, step(kind))
    assert [site.path for site in applied.plan.steps[0].sites] == [PATHS[host]]
    checks = {check.name: check.status for check in applied.checks}
    assert checks["contracts of vision-language"] == "passed"
    batch = inputs(host, TOKENS[kind])
    out = model(**batch, labels=batch["input_ids"])
    out.loss.backward()
    connector = model.get_submodule(PATHS[host])
    grads = {n: p.grad for n, p in connector.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values()), kind
    assert sum(bool(g.abs().sum()) for g in grads.values() if g is not None) > len(grads) // 2
    rest = {n: t for n, t in state(model).items() if not n.startswith(PATHS[host])}
    assert equal(rest, {n: before[n] for n in rest})
    applied.undo()
    assert equal(state(model), before)


@pytest.mark.parametrize("host", HOSTS)
def test_the_connector_is_found_by_its_role(host: str) -> None:
    anatomy = walk(HOSTS[host](), families=(VisionLanguage(),))
    assert PATHS[host] in {site.path for site in anatomy.select(role="resampler")}
    plan = surgery.plan(HOSTS[host](), step("linear", at={"role": "resampler"}))
    assert [site.path for site in plan.steps[0].sites] == [PATHS[host]]


@pytest.mark.parametrize("host", ["llava", "internvl"])
def test_the_configuration_says_how_many_places_an_image_has(host: str) -> None:
    model = HOSTS[host]()
    told = model.config.image_seq_length
    with surgery.apply(model, step("perceiver")):
        assert model.config.image_seq_length == TOKENS["perceiver"]
    assert model.config.image_seq_length == told


def test_too_few_places_in_the_prompt_are_an_error_of_the_host() -> None:
    model = HOSTS["llava"]()
    surgery.apply(model, step("perceiver"))
    with pytest.raises(ValueError, match="image"):
        model(**inputs("llava", TOKENS["perceiver"] - 1))


@pytest.mark.parametrize("host", HOSTS)
def test_a_connector_rebuilt_as_it_was_answers_the_same(host: str) -> None:
    model = HOSTS[host]()
    kind = {"llava": "mlp", "idefics2": "perceiver"}.get(host, "pixel_shuffle")
    slots = {"llava": 16, "internvl": 4, "idefics2": 5, "idefics3": 4}[host]
    batch = inputs(host, slots)
    with torch.no_grad():
        before = model(**batch).logits
        applied = surgery.apply(model, step(None, kind=kind))
        assert f"carried {len(applied.plan.slots)} of" in applied.plan.steps[0].notes[-1]
        assert applied.plan.saved == ()
        assert torch.equal(model(**batch).logits, before)


def test_a_grid_that_the_blocks_do_not_divide_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"multiple of 3.*16 tokens"):
        surgery.plan(
            HOSTS["llava"](), step(None, kind="avg_pool", sizes={"factor": 3, "bias": True})
        )


def test_a_class_token_in_the_grid_is_refused_with_the_reason() -> None:
    model = HOSTS["llava"]()
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(RefusedError, match=r"17 tokens; drop the class token"):
        surgery.plan(model, step("avg_pool"))


def test_widths_that_are_not_the_models_are_refused() -> None:
    sizes = {**SIZES["linear"], "in_features": 31}
    with pytest.raises(
        RefusedError, match=r"32, the width of the vision tower .*got 31 \(recipe\)"
    ):
        surgery.plan(HOSTS["llava"](), step(None, kind="linear", sizes=sizes))
    sizes = {**SIZES["linear"], "out_features": 25}
    with pytest.raises(RefusedError, match=r"24, the width of the language model"):
        surgery.plan(HOSTS["llava"](), step(None, kind="linear", sizes=sizes))


def test_a_contract_that_training_code_broke_is_found() -> None:
    model = HOSTS["llava"]()
    surgery.apply(model, step("perceiver"))
    patient = Patient(model, config=model.config)
    assert list(VisionLanguage().contracts(patient)) == []
    model.config.image_seq_length = 16
    (broken,) = VisionLanguage().contracts(patient)
    assert (broken.where, broken.wanted, broken.found) == ("config.image_seq_length", "6", "16")


def test_several_feature_layers_widen_the_tower() -> None:
    model = HOSTS["llava"]()
    model.config.vision_feature_layer = [-2, -1]
    plan = surgery.plan(model, step("linear"))
    assert plan.to_json()["steps"][0]["with"]["sizes"]["in_features"] == 64
