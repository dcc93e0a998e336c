"""Case 003: a resampler trained with other sizes than the defaults, and nobody wrote them down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery.errors import IntegrityError, PatientError, RecipeError, RefusedError
from tests.resampler.kit import equal, state, step
from tests.resampler.panovlm import DEFAULTS, TRAINED, PanoVLM, panovlm

AT = {"path": "resampler_module.resampler"}
UNSEEN = {"norm_first": True, "eps": 1e-5, "dropout": 0.0}


@pytest.fixture
def trained() -> PanoVLM:
    return panovlm(TRAINED, seed=1)


@pytest.fixture
def stored(trained: PanoVLM, tmp_path: Path) -> Path:
    return save(trained, tmp_path / "model.safetensors")


def save(model: PanoVLM, path: Path, **metadata: Any) -> Path:
    texts = {name.replace("__", "."): json.dumps(value) for name, value in metadata.items()}
    save_file(dict(model.state_dict()), path, metadata={"format": "pt", **texts})
    return path


def resampler(stored: Path, **options: Any) -> dict[str, Any]:
    return step(None, at=AT, **{"sizes": UNSEEN, "weights": str(stored), **options})


def test_the_failure_of_the_report(stored: Path, trained: PanoVLM) -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch.*input_proj\.weight"):
        panovlm(DEFAULTS, seed=2).load_state_dict(trained.state_dict(), strict=False)


def test_it_loads_with_the_sizes_that_its_tensors_have(stored: Path, trained: PanoVLM) -> None:
    model = panovlm(DEFAULTS, seed=2)
    before = state(model)
    applied = surgery.apply(model, resampler(stored))
    notes = applied.plan.steps[0].notes
    name = "resampler_module.resampler.input_proj.weight"
    assert f"hidden = 16 (shape of {name})" in notes
    assert "norm_first = True (recipe)" in notes
    assert equal(
        dict(model.resampler_module.state_dict()), dict(trained.resampler_module.state_dict())
    )
    inputs = {"pixel_values": torch.randn(1, 3, 8, 16), "input_ids": torch.tensor([[3, 4]])}
    model.language_model.load_state_dict(trained.language_model.state_dict())
    model.vision_encoder.load_state_dict(trained.vision_encoder.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**inputs), trained(**inputs))
    applied.undo()
    assert model.resampler_module.resampler.input_proj.weight.shape == (24, 18)
    untouched = {n: t for n, t in before.items() if n.startswith("resampler_module")}
    assert equal(
        dict(state(model.resampler_module)),
        {n.removeprefix("resampler_module."): t for n, t in untouched.items()},
    )


def test_the_journal_holds_whole_numbers_and_where_they_came_from(stored: Path) -> None:
    applied = surgery.apply(panovlm(DEFAULTS, seed=2), resampler(stored))
    options = applied.journal.steps[0].options
    assert (options["kind"], options["sizes"]["d_inner"], options["sizes"]["hidden"]) == (
        "bimamba",
        28,
        16,
    )
    assert "expand" not in json.dumps(options)
    assert options["found"]["dropout"] == "recipe"
    assert options["prefix"] == "resampler_module.resampler."


def test_a_saved_result_loads_when_the_weights_are_gone(stored: Path, tmp_path: Path) -> None:
    applied = surgery.apply(panovlm(DEFAULTS, seed=2), resampler(stored))
    wanted = state(applied.model)
    applied.save(tmp_path / "out")
    stored.unlink()
    model = panovlm(DEFAULTS, seed=2)
    loaded = surgery.load(tmp_path / "out", model)
    assert equal(state(loaded.model), wanted)
    loaded.undo()
    assert equal(state(model), state(panovlm(DEFAULTS, seed=2)))


def test_what_nobody_knows_is_asked_for(stored: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        surgery.plan(panovlm(DEFAULTS, seed=2), resampler(stored, sizes={"eps": 1e-5}))
    assert "norm_first (whether a block normalises before it mixes" in caught.value.found
    assert caught.value.instead == "add `sizes: {norm_first: ..., dropout: ...}`"


def test_metadata_come_first_and_are_shown(trained: PanoVLM, tmp_path: Path) -> None:
    sizes = {"hidden_dim": 16, "expand": 1.75, "norm_first": True, "dropout": 0.0}
    said = {"kind": "bimamba", **sizes}
    path = save(trained, tmp_path / "model.safetensors", resampler_config=said)
    plan = surgery.plan(panovlm(DEFAULTS, seed=2), resampler(path, sizes={"eps": 1e-5}))
    notes = plan.steps[0].notes
    assert "hidden = 16 (metadata resampler_config of model.safetensors)" in notes
    assert "d_inner = 28 (metadata resampler_config of model.safetensors)" in notes
    assert "eps = 1e-05 (recipe)" in notes
    assert any(note.startswith("d_state = 4 (shape of ") for note in notes)


def test_our_own_metadata_are_enough(trained: PanoVLM, tmp_path: Path) -> None:
    said = {"kind": "bimamba", "sizes": TRAINED}
    path = save(trained, tmp_path / "model.safetensors", surgery__resampler=said)
    plan = surgery.plan(panovlm(DEFAULTS, seed=2), resampler(path, sizes={}))
    assert plan.to_json()["steps"][0]["with"]["sizes"]["eps"] == 1e-5


def test_metadata_that_the_tensors_contradict_stop_everything(
    trained: PanoVLM, tmp_path: Path
) -> None:
    said = {"kind": "bimamba", "sizes": DEFAULTS}
    path = save(trained, tmp_path / "model.safetensors", surgery__resampler=said)
    model = panovlm(DEFAULTS, seed=2)
    with pytest.raises(
        IntegrityError, match=r"expected 16, which the shape of .*got 24; .*metadata: false"
    ):
        surgery.plan(model, resampler(path))
    assert surgery.plan(model, resampler(path, metadata=False)).steps


def test_half_written_metadata_are_named(stored: Path) -> None:
    (stored.parent / "config.json").write_text('{"resampler_config": ')
    model = panovlm(DEFAULTS, seed=2)
    with pytest.raises(IntegrityError, match=r"config\.json.*metadata: false"):
        surgery.plan(model, resampler(stored))
    assert surgery.plan(model, resampler(stored, metadata=False)).steps


def test_a_recipe_that_the_tensors_contradict_is_wrong(stored: Path) -> None:
    with pytest.raises(RecipeError, match=r"sizes\.hidden: expected 16 \(shape of .*got 24"):
        surgery.plan(panovlm(DEFAULTS, seed=2), resampler(stored, sizes={**UNSEEN, "hidden": 24}))


def test_a_factor_is_refused_with_the_whole_number_to_write() -> None:
    sizes = {**TRAINED, "expand": 1.75}
    del sizes["d_inner"]
    with pytest.raises(RecipeError, match=r"whole number d_inner.*write d_inner: 28"):
        surgery.plan(panovlm(DEFAULTS, seed=2), step(None, at=AT, kind="bimamba", sizes=sizes))


def test_weights_of_another_tower_are_refused(trained: PanoVLM, tmp_path: Path) -> None:
    state_dict = dict(trained.state_dict())
    name = "resampler_module.resampler.input_proj.weight"
    state_dict[name] = torch.zeros(16, 20)
    save_file(state_dict, tmp_path / "other.safetensors")
    with pytest.raises(RefusedError, match=r"18, the width of the vision tower .*got 20"):
        surgery.plan(panovlm(DEFAULTS, seed=2), resampler(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("change", ["missing", "reshaped"])
def test_no_tensor_is_left_out_or_made_up(trained: PanoVLM, tmp_path: Path, change: str) -> None:
    state_dict = dict(trained.state_dict())
    name = "resampler_module.resampler.blocks.1.backward_block.D"
    old = state_dict.pop(name)
    if change == "reshaped":
        state_dict[name] = torch.cat((old, old))
    save_file(state_dict, tmp_path / "broken.safetensors")
    with pytest.raises(
        IntegrityError, match=r"blocks\.1\.backward_block\.D (is missing|has shape)"
    ):
        surgery.plan(panovlm(DEFAULTS, seed=2), resampler(tmp_path / "broken.safetensors"))


def test_files_that_are_no_safetensors_lead_to_adopt(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"pickle")
    with pytest.raises(PatientError, match="surgery adopt"):
        surgery.plan(panovlm(DEFAULTS, seed=2), resampler(tmp_path / "last.ckpt"))
    with pytest.raises(PatientError, match="no such file"):
        surgery.plan(panovlm(DEFAULTS, seed=2), resampler(tmp_path / "none.safetensors"))


def test_a_missing_package_never_gives_another_module(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from surgery_plugins.modules.mamba import BiMamba

    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    model = panovlm(DEFAULTS, seed=2)
    surgery.apply(model, resampler(stored))
    assert type(model.resampler_module.resampler) is BiMamba


def test_plan_and_apply_find_the_same(stored: Path) -> None:
    plan = surgery.plan(panovlm(DEFAULTS, seed=2), resampler(stored))
    applied = surgery.apply(panovlm(DEFAULTS, seed=2), resampler(stored))
    assert plan.to_json()["steps"] == applied.plan.to_json()["steps"]
    assert plan.after == applied.plan.after
