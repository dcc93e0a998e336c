from __future__ import annotations

from typing import Any

import pytest
from example_registers import Registers
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTConfig, ViTModel

import surgery
from surgery import Patient

SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
TENSOR = "embeddings.register_tokens"


def model() -> Any:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3))


def test_the_role_is_one_that_selectors_know() -> None:
    steps = [{"use": "freeze"}, {"use": "unfreeze", "at": {"role": "registers"}}]
    found = model()
    with surgery.apply(found, steps):
        trained = [name for name, one in found.named_parameters() if one.requires_grad]
    assert trained == [TENSOR]


def test_only_models_with_registers_are_of_the_family() -> None:
    assert Registers().matches(model())
    assert not Registers().matches(ViTModel(ViTConfig(**SIZES)))


def test_another_count_of_registers_breaks_the_contract() -> None:
    found = model()
    patient = Patient(found, config=found.config)
    assert list(Registers().contracts(patient)) == []
    found.config.num_register_tokens = 4
    (broken,) = Registers().contracts(patient)
    assert (broken.where, broken.found) == (TENSOR, "3")


def test_an_apply_that_breaks_the_contract_is_refused() -> None:
    found = model()
    found.config.num_register_tokens = 4
    with pytest.raises(surgery.SurgeryError, match="registers"):
        surgery.apply(found, {"use": "freeze"})
