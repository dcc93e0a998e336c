from __future__ import annotations

import pickle
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from example_regression import Regression, Squares
from transformers import ViTConfig, ViTForImageClassification

import surgery
from surgery import Patient
from surgery.cli import main

ROOT = Path(__file__).parents[1]


def patient(labels: int = 1) -> Patient:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=labels)
    return Patient(ViTForImageClassification(config), config=config)


def test_the_same_number_gives_the_same_sample_in_any_process() -> None:
    one, other = Squares().open(), pickle.loads(pickle.dumps(Squares().open()))
    for number in (0, 3, len(one) - 1):
        assert torch.equal(one[number]["pixels"], other[number]["pixels"])
        assert one[number]["target"] == one[number]["pixels"][0, 0].mean()


def test_the_loss_is_the_mean_squared_error_and_has_a_gradient() -> None:
    given, objective = patient(), Regression()
    encoded = [objective.encode(Squares().open()[n], given, Random(0)) for n in range(4)]
    batch = objective.collate(encoded, given)
    step = objective.step(given.model, batch)
    logits = given.model(pixel_values=batch["pixels"]).logits[:, 0]
    assert torch.allclose(step.loss, (logits - batch["target"]).square().mean())
    step.loss.backward()
    assert given.model.classifier.weight.grad.abs().sum() > 0
    assert objective.weight(batch) == 4


def test_more_outputs_than_one_are_refused() -> None:
    assert Regression().refuse(patient()) is None
    assert "3 outputs" in str(Regression().refuse(patient(3)))


def test_training_teaches_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    patient(3).model.save_pretrained("base")
    Path("recipe.yaml").write_text((ROOT / "recipe.yaml").read_text("utf-8"))
    assert main(["train", "recipe.yaml", "--quiet"]) == 0
    done = surgery.load("out").patient
    held = Squares(count=32, seed=1).open()
    pixels = torch.stack([held[n]["pixels"] for n in range(32)])
    targets = torch.tensor([held[n]["target"] for n in range(32)])
    with torch.no_grad():
        error = (done.model(pixel_values=pixels).logits[:, 0] - targets).abs().mean()
    spread = (targets - targets.mean()).abs().mean()
    assert error < spread
