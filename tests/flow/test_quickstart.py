"""The main job on real weights: MiniLM, offline."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import surgery
from surgery_plugins.sources.demo import PACKAGE
from surgery_plugins.sources.demo import folder as packaged
from tests.command import Ran

pytestmark = [
    pytest.mark.demo,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the MiniLM package is not installed"),
]
SENTENCES = ["A recipe says what to change.", "The journal rebuilds it.", "Undo restores the bits."]


def answer(model: torch.nn.Module) -> torch.Tensor:
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(packaged())(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).last_hidden_state


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from surgery.cli import main

    target = tmp_path_factory.mktemp("quickstart") / "out"
    assert main(["apply", "quickstart", "--output", str(target), "--quiet"]) == 0
    return target


def test_the_quickstart_loads_as_its_base_until_it_is_trained(out: Path) -> None:
    from transformers import BertModel

    loaded = surgery.load(out)
    base = BertModel.from_pretrained(packaged()).eval()
    assert torch.equal(answer(loaded.model), answer(base))
    assert len(loaded.plan.trainable) == 12
    assert sum(p.numel() for p in loaded.model.parameters() if p.requires_grad) == 36_864
    state = base.state_dict()
    loaded.undo()
    assert all(torch.equal(t, state[n]) for n, t in loaded.model.state_dict().items())


def test_its_adapter_answers_equally_in_peft_and_comes_back(out: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import BertModel

    from surgery_plugins.peft.export import export_adapter
    from surgery_plugins.peft.read import load_peft

    loaded = surgery.load(out)
    plain = answer(loaded.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("_B"):
                parameter.normal_(std=0.05, generator=generator)
    wanted = answer(loaded.model)
    assert (wanted - plain).abs().max() > 1e-2
    export_adapter(loaded.model, "default", tmp_path)
    theirs = peft.PeftModel.from_pretrained(BertModel.from_pretrained(packaged()), str(tmp_path))
    assert (answer(theirs.eval()) - wanted).abs().max() <= 1e-6
    back = BertModel.from_pretrained(packaged()).eval()
    load_peft(back, tmp_path)
    assert (answer(back) - wanted).abs().max() <= 1e-6
    untrained = peft.PeftModel.from_pretrained(
        BertModel.from_pretrained(packaged()), str(out / "peft")
    )
    assert (answer(untrained.eval()) - plain).abs().max() <= 1e-6


def test_it_is_found_by_name_from_any_folder(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("apply", "quickstart")
    assert ran.status == 0, ran.err
    assert (tmp_path / "minilm-lora" / "surgery.json").is_file()
    assert "36,864 of 22,750,080" in ran.out
    assert "load it with" in ran.out
