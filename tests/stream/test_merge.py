"""Laws of merge and undo: what is folded is what ran beside, and every bit comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import surgery
from surgery.checkpoint.tensors import TensorReader
from surgery.cli import main
from surgery.errors import ConflictError, Problems, RefusedError
from surgery.flow.merge import merge_output
from surgery.flow.run import Run, Way
from surgery.flow.undo import undo_all, undo_one
from surgery.hooks.registry import registry
from tests.stream.models import MODELS, save
from tests.stream.test_equal import files, run

IDS = torch.tensor([[1, 5, 9, 3]])
ATTENTION = {"role": ["attention.q", "attention.v", "attention.proj"]}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {}, "rslora": {"rslora": True, "alpha": 8}, "dora": {"dora": True},
    "patterns": {"rank_pattern": {"attention.q": 3}, "alpha_pattern": {"attention.v": 5.0}},
}  # fmt: skip


def stir(folder: Path, out: Path) -> None:
    """Write a checkpoint as training would leave it."""
    loaded = surgery.load(folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.2
    loaded.save(out)


def answer(model: Any, name: str) -> torch.Tensor:
    inputs = {"pixel_values": torch.ones(1, 3, 8, 8)} if name in ("vit", "dinov2") else {}
    inputs = inputs or {"input_ids": IDS}
    if name.startswith("t5"):
        inputs["decoder_input_ids"] = IDS
    with torch.no_grad():
        out: torch.Tensor = model.eval()(**inputs)[0]
    return out.float()


@pytest.fixture
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, options = request.param
    base = save(name, tmp_path / "base", True)
    steps = [{"use": "freeze"}, {"use": "lora", "at": ATTENTION, "with": {"rank": 2, **options}}]
    run(base, steps, "live", "out", "changed")
    stir(tmp_path / "out", tmp_path / "trained")
    return tmp_path / "trained"


CASES = [("llama", options) for options in KINDS.values()] + [
    (name, KINDS["dora"]) for name in MODELS if name != "llama"
]


@pytest.mark.parametrize("trained", CASES, indirect=True, ids=str)
def test_a_merged_model_answers_as_the_adapters_did(
    trained: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = request.node.callspec.params["trained"][0]
    for way in ("live", "stream"):
        merge_output(trained, tmp_path / way, registry(), run=Run(way))
    assert files(tmp_path / "live") == files(tmp_path / "stream")
    loaded = surgery.load(trained)
    wanted = answer(loaded.model, name)
    cls = getattr(transformers, type(surgery.load(tmp_path / "live").model).__name__)
    plain, info = cls.from_pretrained(tmp_path / "live", output_loading_info=True)
    assert not any(info.values())
    slack = 0.1 if name == "llama bf16" else 1e-4
    torch.testing.assert_close(answer(plain, name), wanted, rtol=slack, atol=slack)
    loaded.undo()
    assert not torch.allclose(answer(loaded.model, name), wanted, rtol=slack, atol=slack)


@pytest.mark.parametrize("trained", [("llama tied", KINDS["dora"])], indirect=True)
@pytest.mark.parametrize("way", ["live", "stream"])
def test_undo_gives_every_bit_back(trained: Path, way: Way, tmp_path: Path) -> None:
    merge_output(trained, tmp_path / "merged", registry())
    undo_all(tmp_path / "merged", tmp_path / "bare", registry())
    for path in (tmp_path / "base").iterdir():
        assert (tmp_path / "bare" / path.name).read_bytes() == path.read_bytes()
    undo_one(tmp_path / "merged", 2, tmp_path / "unmerged", registry(), run=Run(way))
    before, after = surgery.load(trained), surgery.load(tmp_path / "unmerged")
    assert before.plan.trainable == after.plan.trainable
    state = after.model.state_dict()
    assert before.model.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[n]) for n, t in before.model.state_dict().items())


@pytest.mark.parametrize("trained", [("llama", {})], indirect=True)
def test_a_step_that_others_need_is_not_undone(trained: Path, tmp_path: Path) -> None:
    merge_output(trained, tmp_path / "merged", registry(), whole=False)
    with pytest.raises(ConflictError, match=r"surgery 2 \(merge\)"):
        undo_one(tmp_path / "merged", 1, tmp_path / "new", registry())
    with pytest.raises(RefusedError, match=r"0 \(freeze\), 1 \(lora\), 2 \(merge\)"):
        undo_one(tmp_path / "merged", 7, tmp_path / "new", registry())
    assert not (tmp_path / "new").exists()
    undo_one(tmp_path / "merged", 0, tmp_path / "unfrozen", registry())
    merged = TensorReader(tmp_path / "merged" / "changed.safetensors")
    left = TensorReader(tmp_path / "unfrozen" / "changed.safetensors")
    assert merged.entries.keys() == left.entries.keys()
    assert all(torch.equal(merged.get(name), left.get(name)) for name in left.entries)


@pytest.mark.parametrize("trained", [("llama", {})], indirect=True)
def test_a_result_that_is_not_finite_is_not_written(trained: Path, tmp_path: Path) -> None:
    loaded = surgery.load(trained)
    with torch.no_grad():
        parameter = next(p for p in loaded.model.parameters() if p.requires_grad)
        parameter[0, 0] = float("nan")
    with pytest.raises(Problems, match="finite values"):
        loaded.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_overflow_of_half_precision_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    MODELS["llama"]().half().save_pretrained(tmp_path / "base")
    at = {"path": "model.layers.0.mlp.up_proj"}
    run(tmp_path / "base", [{"use": "lora", "at": at}], "live", "out", "changed")
    loaded = surgery.load(tmp_path / "out")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.fill_(300.0) if parameter.requires_grad else None
    loaded.save(tmp_path / "large")
    with pytest.raises(Problems, match=r"up_proj\.weight"):
        merge_output(tmp_path / "large", tmp_path / "merged", registry())


def test_a_tied_weight_is_not_changed_behind_its_other_name(tmp_path: Path) -> None:
    base = save("llama tied", tmp_path / "base", False)
    run(base, [{"use": "lora", "at": {"path": "lm_head"}}], "live", "out", "changed")
    with pytest.raises(RefusedError, match="shares"):
        merge_output(tmp_path / "out", tmp_path / "merged", registry())


@pytest.mark.parametrize("trained", [("llama", {})], indirect=True)
def test_the_commands_merge_and_undo(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, new = str(tmp_path / "m"), str(tmp_path / "n")
    assert main(["merge", str(trained), "--into", merged, "--stream", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mode"].startswith("stream")
    assert main(["verify", merged, "--quiet"]) == 0, capsys.readouterr()
    assert main(["undo", merged, "--into", new, "--surgery", "2"]) == 0
    assert main(["undo", merged, "--into", new]) != 0
    assert "exist" in capsys.readouterr().err
    assert main(["undo", merged, "--into", new, "--surgery", "0", "--force"]) == 0
    assert main(["merge", str(tmp_path / "base"), "--into", new]) == 4
    assert "surgery.manifest.json" in capsys.readouterr().err
