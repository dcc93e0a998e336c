"""Case 001: SAM 3 with LoRA, and a rotary assertion that was not LoRA's fault.

The other half of the case, complex tables that nn.DataParallel and casts turn real, is in
tests/diagnose/test_case_001.py; here they meet a training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import RefusedError
from surgery.training.strategy import World, wrap
from surgery_plugins.objectives.segmentation import Segmentation
from tests.rope import kit as models
from tests.rope.lookalike import Trunk
from tests.segmentation import kit

LORA = {
    "use": "lora", "at": {"path": "vision_encoder.backbone.**", "role": ["attention.q"]},
    "with": {"rank": 2, "alpha": 2},
}  # fmt: skip


def given(side: int) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.zeros(1, 3, side, side),
        "input_ids": torch.tensor([[2]]),
        "attention_mask": torch.tensor([[1]]),
    }


@pytest.mark.parametrize("lora", [False, True])
def test_another_grid_breaks_the_rotary_tables_with_and_without_lora(lora: bool) -> None:
    model = models.sam3()
    if lora:
        surgery.apply(model, LORA)
    with torch.no_grad():
        assert model(**given(126)).semantic_seg.shape[0] == 1
        with pytest.raises(RuntimeError, match=r"tensor a \(100\) must match .* tensor b \(81\)"):
            model(**given(140))


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ([42, 378], "3 x 27 patches"),
        pytest.param(140, "10 x 10 patches", marks=pytest.mark.slow),
        pytest.param(130, "130 x 130 pixels", marks=pytest.mark.slow),
    ],
)
def test_such_images_are_refused_before_the_first_step(
    tmp_path: Path, size: Any, told: str
) -> None:
    sets = {"train.objective.image_size": size, "train.steps": 1, "train.batch": 1}
    recipe = kit.shipped(tmp_path, "sam3-lora", models.sam3(), 2, **sets)
    with pytest.raises(RefusedError, match=told) as caught:
        kit.run(recipe)
    assert "9 x 9 patches of 14 x 14" in str(caught.value)
    assert not (tmp_path / "sam3-lora").exists()


@pytest.mark.slow
def test_with_tables_rebuilt_the_other_size_trains(tmp_path: Path) -> None:
    sets = {"train.steps": 3, "train.batch": 2, "train.objective.flip": 0.0}
    kit.shipped(tmp_path, "sam3-lora", models.sam3(), 2, **sets)
    text = (tmp_path / "sam3-lora.yaml").read_text()
    rope = "surgeries:\n  - use: rope\n    with: {image_size: 140}\n"
    (tmp_path / "sam3-lora.yaml").write_text(text.replace("surgeries:\n", rope))
    recipe = kit.again(tmp_path, "sam3-lora", **sets)
    done, lines = kit.run(recipe)
    assert done.ended == "done"
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]


class Masks(nn.Module):
    """A trunk with complex tables, as Meta's has, and a head for masks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = Trunk(), nn.Linear(16, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.trunk(pixel_values)).movedim(-1, 1)  # type: ignore[no-any-return]


PLAIN = Segmentation(prompt="none", image_size=126, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_model_with_complex_tables_trains_as_it_is() -> None:
    owner = kit.patient(Masks())
    assert PLAIN.refuse(owner) is None
    losses, _ = kit.trained(PLAIN, owner, 8)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.filterwarnings("ignore:Casting complex")
def test_a_table_that_a_cast_made_real_is_named_before_the_first_step() -> None:
    model = Masks().to(torch.float64).to(torch.float32)
    assert bool(torch.isfinite(model(torch.zeros(1, 3, 126, 126))).all())  # and silently wrong
    why = PLAIN.refuse(kit.patient(model))
    assert why is not None
    assert "trunk.blocks.0.attn.freqs_cis" in why
    assert "complex" in why


def test_data_parallel_is_refused_with_the_reason_and_what_to_use() -> None:
    with pytest.raises(RefusedError, match=r"complex tables real; start .* torchrun"):
        wrap(nn.DataParallel(Masks()), PLAIN, "auto", World(), ())


def test_the_recipe_trains(tmp_path: Path) -> None:
    sets = {"train.steps": 12, "train.batch": 4, "train.optimizer.lr": 0.03}
    done, lines = kit.run(kit.shipped(tmp_path, "sam3-lora", models.sam3(), 4, **sets))
    assert done.ended == "done"
    assert kit.fallen(lines) < 0.97
    assert all(check.status == "passed" for check in done.checks)
    (judged,) = [line["evaluation"] for line in lines if "evaluation" in line]
    assert set(judged) == {"loss", "dice", "iou"}
