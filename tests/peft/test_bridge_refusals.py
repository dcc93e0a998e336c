"""What the bridge to PEFT's methods refuses, and why."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

import surgery
from surgery.errors import MissingExtraError, RefusedError, SurgeryError
from tests.peft import kit
from tests.peft.kit import fresh
from tests.peft.test_bridge import bridges, step

pytestmark = pytest.mark.filterwarnings("ignore")

REFUSED = {
    "prompt_tuning": "adds tokens to the model's input",
    "prefix_tuning": "adds tokens to the model's input",
    "p_tuning": "adds tokens to the model's input",
    "multitask_prompt_tuning": "adds tokens to the model's input",
    "adaption_prompt": "every attention",
    "lora": "the surgery `lora` does it",
    "ln_tuning": "the surgery `unfreeze` does it",
    "trainable_tokens": "with `rows:`",
    "adalora": "moves ranks between all sites",
    "xlora": "a forward of its own",
    "poly": "number of a task",
    "lohha": "did you mean 'loha'",
}


@pytest.mark.parametrize("method", REFUSED)
def test_methods_of_whole_models_are_refused_with_the_reason(method: str) -> None:
    model = fresh(kit.llama)
    with pytest.raises(RefusedError, match=REFUSED[method]):
        surgery.apply(model, step(method))
    assert not bridges(model)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (step("loha", options={"rank": 3}), "rank"),
        (step("loha", options={"r": 0}), "positive"),
        (step("c3a", options={"block_size": 7}), "block size"),
        (step("loha", {"role": "norm"}), "not supported"),
        (step("loha", {"path": "model.layers"}), "no module with a weight"),
    ],
)
def test_options_and_sites_that_peft_refuses_are_errors(made: dict[str, Any], reason: str) -> None:
    model = fresh(kit.llama)
    with pytest.raises(SurgeryError, match=reason):
        surgery.apply(model, made)
    assert not bridges(model)


def test_rows_of_a_fused_weight_and_weights_read_from_outside_are_refused() -> None:
    with pytest.raises(RefusedError, match="only some rows"):
        surgery.apply(fresh(kit.gpt2), step("loha", {"role": "attention.q"}))
    with pytest.raises(RefusedError, match="read past"):
        surgery.apply(fresh(kit.Attention), step("loha", {"path": "attn.out_proj"}))


def test_a_module_with_an_adapter_is_refused_since_peft_may_read_past_it() -> None:
    model = fresh(kit.llama)
    surgery.apply(model, {"use": "lora", "at": {"path": "**.q_proj"}})
    with pytest.raises(RefusedError, match="without extensions"):
        surgery.apply(model, step("boft", {"path": "**.q_proj"}))


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("peft"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"model-surgery\[peft\]"):
        surgery.apply(fresh(kit.llama), step("loha"))
