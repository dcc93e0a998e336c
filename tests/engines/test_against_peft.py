"""The same adapter on the same batches: this loop beside PEFT under the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from surgery.flow.recipe import apply_recipe
from surgery.hooks.registry import Registry
from surgery.recipe.schema import Output
from surgery.training.feed import Order
from surgery.training.run import train_recipe
from tests.training.conftest import recipe_of
from tests.training.counting import Counting, Numbers
from tests.training.test_run import losses

STEPS, BATCH, RATE, SEED = 50, 4, 0.01, 3
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def batches() -> list[Mapping[str, torch.Tensor]]:
    """Give the batches of every step, as seed and step say."""
    objective, samples = Counting(), Numbers(count=64).open()
    order = Order(len(samples), BATCH, BATCH, SEED)
    found = []
    for step in range(STEPS):
        (places,) = order.places(step)
        drawn = [Random(f"{SEED} {epoch} {number}") for epoch, number in places]
        encoded = [
            objective.encode(samples[number], None, random)
            for (_, number), random in zip(places, drawn, strict=True)
        ]
        found.append(objective.collate(encoded, None))
    return found


def theirs(base: Path, adapter: Path, folder: Path, schedule: str) -> list[float]:
    """Train with PEFT and the Trainer alone, from the adapter that was exported."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    seen: list[float] = []

    class Watched(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, **rest: Any) -> Any:
            loss = super().compute_loss(model, inputs, **rest)
            seen.append(float(loss.detach()))
            return loss

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(dataset)

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=1,
        learning_rate=RATE, lr_scheduler_type=schedule, weight_decay=0.0, max_grad_norm=1.0,
        optim="adamw_torch", seed=SEED, use_cpu=True, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    given: Any = batches()
    Watched(tuned, arguments, train_dataset=given, data_collator=lambda one: dict(one[0])).train()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("engine", [None, {"use": "hf-trainer"}], ids=["loop", "hf-trainer"])
def test_losses_are_those_of_peft_and_the_trainer(
    base: Path, tmp_path: Path, known: Registry, schedule: str, engine: Any
) -> None:
    lora = {
        "use": "lora", "at": {"path": [f"**.{name}" for name in TARGETS]},
        "with": {"rank": 4, "alpha": 8},
    }  # fmt: skip
    settings: dict[str, Any] = {
        "surgeries": [{"use": "freeze"}, lora], "steps": STEPS, "batch": BATCH,
        "optimizer": {"lr": RATE}, "schedule": {"name": schedule},
    }  # fmt: skip
    settings |= {"engine": engine} if engine else {}
    recipe = recipe_of(tmp_path, known, output="./ours", **settings)
    begun = Output(path=str(tmp_path / "begun"), also=["peft"])
    apply_recipe(replace(recipe, train=None, output=begun), known)
    adapter = next(path.parent for path in (tmp_path / "begun").rglob("adapter_config.json"))
    wanted = theirs(tmp_path / "base", adapter, tmp_path / "trainer", schedule)
    found = losses(train_recipe(recipe, known))
    assert len(found) == len(wanted) == STEPS
    assert found[-1] < found[0] - 0.1, "a curve that stays level compares nothing"
    assert found == pytest.approx(wanted, abs=1e-5)
