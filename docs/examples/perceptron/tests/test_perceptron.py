from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from example_perceptron import PerceptronSource, _model
from safetensors.torch import save_file

import surgery
from surgery.hooks.registry import registry
from surgery.testing import LAWS, case_of, held

STEPS = [{"use": "lora", "at": {"type": "Linear"}, "with": {"rank": 2}}]


@pytest.fixture
def base(tmp_path: Path) -> PerceptronSource:
    torch.manual_seed(0)
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "perceptron.json").write_text(json.dumps({"widths": [8, 16, 3]}))
    save_file(_model([8, 16, 3]).state_dict(), folder / "model.safetensors")
    return PerceptronSource(path=str(folder))


def test_structure_and_model_have_the_same_tensors(base: PerceptronSource) -> None:
    meta, real = base.build().model, base.load().model
    assert all(tensor.is_meta for tensor in meta.parameters())
    one, other = (dict(model.named_parameters()) for model in (meta, real))
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}


@pytest.mark.parametrize("law", LAWS)
def test_a_surgery_keeps_the_laws_on_it(law: str, base: PerceptronSource) -> None:
    found = held(law, case_of(base, STEPS, registry()))
    one_step = law == "order of independent surgeries does not matter"
    assert found.status == ("skipped" if one_step else "passed"), found.detail


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"widths": 3}', '{"widths": [3, -1]}', '{"widths": [true, 2]}']
)
def test_a_bad_outline_is_an_error_that_shows_a_good_one(text: str, base: PerceptronSource) -> None:
    Path(base.path, "perceptron.json").write_text(text)
    with pytest.raises(surgery.SurgeryError, match="widths"):
        base.build()


def test_weights_of_other_widths_are_refused(base: PerceptronSource) -> None:
    Path(base.path, "perceptron.json").write_text('{"widths": [8, 9, 3]}')
    with pytest.raises(surgery.SurgeryError, match=r"\[8, 9, 3\]"):
        base.load()
