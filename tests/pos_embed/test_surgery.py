"""Position embeddings on real classes: everything follows, and everything comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import ConflictError, RefusedError, SurgeryError
from surgery_plugins.surgeries.pos_embed.resample import Resample
from tests.rope import kit

T = kit.transformers


def step(**options: Any) -> dict[str, Any]:
    return {"use": "pos_embed", "with": options}


def wanted(old: torch.Tensor, grids: Any, prefix: int) -> torch.Tensor:
    make = Resample(*grids, prefix, "rows", "bicubic", True)
    return make(old.detach(), generator=torch.Generator())


@pytest.mark.parametrize(
    ("build", "name", "prefix"),
    [
        (kit.vit, "vit.embeddings.position_embeddings", 1),
        (kit.dinov2, "dinov2.embeddings.position_embeddings", 1),
        (kit.clip, "vision_model.embeddings.position_embedding.weight", 1),
        (kit.siglip, "vision_model.embeddings.position_embedding.weight", 0),
    ],
)
def test_a_vision_table_is_resampled_and_the_model_is_as_a_fresh_one(
    build: Any, name: str, prefix: int
) -> None:
    model = build()
    old, before, config = model.get_parameter(name), kit.bits(model), model.config.to_dict()
    applied = surgery.apply(model, step(image_size=48))
    assert torch.equal(model.get_parameter(name), wanted(old, ((4, 4), (6, 6)), prefix))
    kit.assert_as_fresh(model)
    others = {n: t for n, t in before.items() if "position" not in n}
    assert kit.same_bits(others, {n: t for n, t in kit.bits(model).items() if n in others})
    applied.undo()
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_a_resampled_model_takes_images_of_its_new_size_alone() -> None:
    model = kit.vit()
    surgery.apply(model, step(image_size=[32, 64]))
    kit.assert_as_fresh(model)
    assert model(torch.zeros(1, 3, 32, 64)).logits.shape == (1, 2)
    with pytest.raises(ValueError, match="doesn't match model"):
        model(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("build", "name", "kept"),
    [
        (lambda: T.BertModel(T.BertConfig(vocab_size=50, max_position_embeddings=32, **kit.SIZES)),
         "embeddings.position_embeddings.weight", 0),
        (lambda: T.RobertaModel(
            T.RobertaConfig(vocab_size=50, max_position_embeddings=34, **kit.SIZES)),
         "embeddings.position_embeddings.weight", 2),
        (lambda: T.OPTModel(T.OPTConfig(
            vocab_size=50, max_position_embeddings=32, word_embed_proj_dim=32, ffn_dim=48,
            hidden_size=32, num_attention_heads=4, num_hidden_layers=1)),
         "decoder.embed_positions.weight", 2),
        (lambda: T.GPT2Model(T.GPT2Config(
            vocab_size=50, n_positions=32, n_embd=32, n_layer=1, n_head=4)), "wpe.weight", 0),
    ],
    ids=["bert", "roberta", "opt", "gpt2"],
)  # fmt: skip
def test_positions_in_a_sequence_are_stretched_past_the_rows_that_are_none(
    build: Any, name: str, kept: int
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    old = model.get_parameter(name)
    count = old.shape[0] - kept
    new = 2 * count + (kept if kept and "embeddings." in name else 0)
    surgery.apply(model, step(length=new))
    table = model.get_parameter(name)
    assert table.shape[0] == kept + 2 * count
    assert torch.equal(table[:kept], old[:kept])
    grids = ((1, count), (1, 2 * count))
    assert torch.equal(table, wanted(old[None], grids, kept)[0])
    kit.assert_as_fresh(model)
    assert model(torch.full((1, 50), 7)).last_hidden_state.shape == (1, 50, 32)


def test_one_tower_of_two_is_lengthened() -> None:
    model = kit.clip()
    surgery.apply(model, {**step(length=100), "at": {"path": "text_model"}})
    assert model.text_model.embeddings.position_embedding.weight.shape == (100, 32)
    kit.assert_as_fresh(model)


def test_sam2_needs_no_table_and_all_of_its_sizes_follow() -> None:
    model = kit.sam2()
    before, config = kit.bits(model), model.config.to_dict()
    attributes = dict(vars(model.prompt_encoder))
    applied = surgery.apply(model, step(image_size=128))
    assert model.prompt_encoder.mask_input_size == (32, 32)
    assert model.backbone_feature_sizes == [[32, 32], [16, 16], [8, 8]]
    kit.assert_as_fresh(model)
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[[60.0, 60.0]]]])
    fresh = type(model)(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    ours, theirs = (m(pixel_values=images, input_points=points).pred_masks for m in (model, fresh))
    assert torch.equal(ours, theirs)
    applied.undo()
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config
    assert dict(vars(model.prompt_encoder)) == attributes


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_a_model_is_planned_written_loaded_and_undone(tmp_path: Path, dtype: torch.dtype) -> None:
    model = kit.vit().to(dtype)
    loaded = kit.round_trip(model, step(image_size=48), tmp_path)
    again = T.AutoConfig.from_pretrained(tmp_path / "live-full")
    assert again.image_size == 48
    assert loaded(torch.zeros(1, 3, 48, 48, dtype=loaded.dtype)).logits.shape == (1, 2)


class Plain(nn.Module):
    """A model without a configuration, as timm's: a class row before a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.pos_embed = nn.Parameter(torch.randn(1, 10, 8))
        self.table = nn.Embedding(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head((x + self.pos_embed[:, 1:]).mean(1))


def test_a_table_is_resampled_without_a_configuration(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    old = model.pos_embed
    change = {**step(grid=[5, 4], prefix=1), "at": {"path": "pos_embed"}}
    applied = surgery.apply(model, change)
    assert torch.equal(model.pos_embed, wanted(old, ((3, 3), (5, 4)), 1))
    assert model(torch.zeros(1, 3, 20, 16)).shape == (1, 2)
    applied.save(tmp_path / "out")
    torch.manual_seed(0)
    loaded = surgery.load(tmp_path / "out", Plain().eval())
    assert torch.equal(loaded.model.pos_embed, model.pos_embed)
    applied.undo()
    assert model.pos_embed is old


def test_a_table_of_an_embedding_keeps_its_count_of_rows() -> None:
    model = Plain()
    change = {**step(grid=[2, 6], from_grid=[2, 3]), "at": {"path": "table"}}
    with surgery.apply(model, change):
        assert model.table.num_embeddings == 12
        model.table(torch.tensor([11]))
    assert model.table.num_embeddings == 6


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (kit.vit, {"image_size": 50}, "nearest is 48 x 48, a grid of 6 x 6"),
        (kit.vit, {"image_size": 32}, "none, or the same size"),
        (kit.llama, {"image_size": 32}, "one image_size"),
        (kit.vit, {"length": 32}, "one max_position_embeddings"),
        (kit.dinov2, {"image_size": [32, 64]}, "size that the forward of Dinov2"),
        (Plain, {"image_size": 32}, "one image_size"),
        (Plain, {"grid": [2, 2]}, "no table of positions|no grid"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    build: Any, options: Any, message: str
) -> None:
    model = build()
    before = kit.bits(model)
    with pytest.raises(RefusedError, match=message):
        surgery.apply(model, step(**options))
    assert kit.same_bits(before, kit.bits(model))


def test_a_relative_table_has_no_rule() -> None:
    config = T.BeitConfig(**kit.VISION, use_relative_position_bias=True)
    model = T.BeitModel(config).eval()
    with pytest.raises(RefusedError, match="another surgery may"):
        surgery.apply(model, step(image_size=48))


def test_two_steps_on_one_table_contradict_each_other_unless_they_say_so() -> None:
    model = kit.vit()
    steps = [step(image_size=48), step(image_size=64)]
    with pytest.raises(ConflictError, match=r"position_embeddings|image_size"):
        surgery.apply(model, steps)
    surgery.apply(model, [steps[0], {**steps[1], "overlap": True}])
    kit.assert_as_fresh(model)


@pytest.mark.parametrize(
    "options", [{}, {"image_size": 4, "length": 3}, {"grid": [1, 2, 3]}, {"length": 3, "prefix": 1}]
)
def test_a_recipe_must_ask_for_one_thing(options: dict[str, Any]) -> None:
    with pytest.raises(SurgeryError, match="expected"):
        surgery.plan(kit.vit(), step(**options))
