from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surgery.errors import MissingExtraError, PatientError
from surgery_plugins.sources import demo
from surgery_plugins.sources.demo import PACKAGE, DemoSource
from surgery_plugins.sources.hf import HfSource
from surgery_plugins.sources.transformers import library


@pytest.mark.demo
def test_the_real_model_is_built_and_loaded_without_importing_its_package() -> None:
    source = DemoSource(model="minilm")
    built, loaded = source.build(), source.load()
    assert PACKAGE not in sys.modules
    assert sum(p.numel() for p in built.model.parameters()) == 22_713_216
    (file,) = source.weights().values()
    stored, found = load_file(file), loaded.model.state_dict()
    assert set(stored) - set(found) <= {"embeddings.position_ids"}
    assert all(torch.equal(found[name], stored[name]) for name in found)
    assert {"config.json", "tokenizer.json"} <= source.companions().keys()
    assert loaded.tokenizer("hello")["input_ids"] == [101, 7592, 102]


@pytest.mark.demo
def test_sentences_that_mean_the_same_are_near() -> None:
    patient = DemoSource(model="minilm").load()
    texts = ["A cat sits on the mat.", "A kitten is on the rug.", "Stocks fell sharply."]
    batch = patient.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = patient.model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert mean[0] @ mean[1] > 0.5 > 0.2 > mean[0] @ mean[2]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"model-surgery\[demo\]"):
        DemoSource(model="minilm").build()


def test_a_package_without_the_model_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "__init__.py").write_text("raise SystemExit")

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(demo, "find_spec", lambda name: Spec())
    with pytest.raises(PatientError, match="a packaged model"):
        DemoSource(model="minilm").weights()


def test_missing_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"model-surgery\[hf\]"):
        library("patient.source: hf")
    with pytest.raises(MissingExtraError):
        HfSource(from_config={"model_type": "llama"}).build()
