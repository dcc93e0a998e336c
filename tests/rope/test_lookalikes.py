"""Complex tables as Meta's SAM 3 has them, and cos and sin as older transformers did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.errors import RefusedError
from surgery.operate.patient import Patient
from surgery_plugins.families.sam3 import Sam3
from tests.rope import kit
from tests.rope.lookalike import OldConfig, OldModel, Trunk


def step(size: Any, **options: Any) -> dict[str, Any]:
    return {"use": "rope", "with": {"image_size": size, **options}}


def trunk(*size: int) -> Trunk:
    torch.manual_seed(0)
    return Trunk(size or (126, 126)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "size"), [(140, (140, 140)), (126, (126, 126)), ([112, 182], (112, 182))]
)
def test_tables_are_those_of_a_fresh_trunk(asked: Any, size: tuple[int, int]) -> None:
    model, fresh = trunk(), trunk(*size)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    if size != (126, 126):
        with pytest.raises(AssertionError):
            model(images)
    surgery.apply(model, step(asked))
    for name, table in fresh.named_buffers():
        assert torch.equal(model.get_buffer(name), table), name
        assert model.get_buffer(name).dtype == torch.complex64
    assert model.blocks[1].attn.input_size == fresh.blocks[1].attn.input_size
    assert torch.equal(model(images), fresh(images))


def test_complex_tables_survive_any_cast_and_move() -> None:
    model = trunk()
    surgery.apply(model, step(140))
    wanted = model.blocks[1].attn.freqs_cis.clone()
    for cast in (torch.bfloat16, torch.float16, torch.float64):
        model.to(cast)
        assert model.blocks[1].attn.qkv.weight.dtype == cast
        assert torch.equal(model.blocks[1].attn.freqs_cis, wanted)
    assert list(model.state_dict())[1] == list(trunk().state_dict())[1]
    assert model.to("meta").blocks[1].attn.freqs_cis.is_meta
    assert model.to_empty(device="cpu").blocks[1].attn.freqs_cis.dtype == torch.complex64


@pytest.mark.filterwarnings("ignore:Casting complex")
def test_a_table_that_a_cast_made_real_is_named_and_mended() -> None:
    model = trunk().to(torch.float64).to(torch.float32)
    assert not model.blocks[0].attn.freqs_cis.is_complex()
    (first, *_) = Sam3().contracts(Patient(model))
    assert (first.where, first.wanted) == ("blocks.0.attn.freqs_cis", "complex values")
    surgery.apply(model, step(126))
    assert list(Sam3().contracts(Patient(model))) == []
    assert torch.equal(model.blocks[3].attn.freqs_cis, trunk().blocks[3].attn.freqs_cis)


def test_the_family_compares_rows_and_columns_and_not_their_product() -> None:
    model = trunk()
    good = {"x": torch.zeros(1, 3, 126, 126)}
    assert list(Sam3().contracts(Patient(model, inputs=good))) == []
    bad = {"x": torch.zeros(1, 3, 42, 378)}
    (found,) = Sam3().contracts(Patient(model, inputs=bad))
    assert found.wanted.startswith("126 x 126 pixels")
    assert "3 x 27 patches" in found.found


def test_a_checkpoint_of_changes_loads_on_the_same_base(tmp_path: Path) -> None:
    model = trunk()
    applied = surgery.apply(model, step(140))
    applied.save(tmp_path / "out")
    loaded = surgery.load(tmp_path / "out", trunk())
    images = torch.randn(1, 3, 140, 140)
    assert torch.equal(loaded.model(images), model(images))
    before = kit.bits(trunk())
    for undone in (applied, loaded):
        undone.undo()
        assert undone.model.blocks[1].attn.input_size == (9, 9)
        found = kit.bits(undone.model)
        assert all(torch.equal(found[name][3], before[name][3]) for name in before)


def test_half_a_patch_is_refused_and_nothing_changes() -> None:
    model = trunk()
    before = kit.bits(model)
    with pytest.raises(RefusedError, match="nearest is 140 x 140, a grid of 10 x 10"):
        surgery.apply(model, step(142))
    assert kit.same_bits(before, kit.bits(model))


def test_lora_and_a_new_table_do_not_meet() -> None:
    model = trunk()
    lora = {
        "use": "lora", "at": {"path": "blocks.*.attn.qkv"}, "with": {"rank": 2, "alpha": 2},
    }  # fmt: skip
    images = torch.randn(1, 3, 140, 140)
    surgery.apply(model, [step(140), lora])
    assert torch.equal(model(images), trunk(140, 140)(images))


def test_older_attributes_are_rebuilt_as_well() -> None:
    torch.manual_seed(0)
    model = OldModel(OldConfig())
    before, config = kit.bits(model), model.config.to_dict()
    with surgery.apply(model, step(168)):
        assert model.layers[1].rotary_emb.rope_embeddings_cos.shape == (144, 4)
        assert model.layers[1].rotary_emb.end_x == 12
        kit.assert_as_fresh(model)
        assert list(Sam3().contracts(Patient(model, config=model.config))) == []
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_older_tables_survive_a_cast() -> None:
    model = OldModel(OldConfig())
    surgery.apply(model, step(168))
    model.half()
    assert model.layers[1].rotary_emb.rope_embeddings_sin.dtype == torch.float32
    kit.assert_as_fresh(model)
