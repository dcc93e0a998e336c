"""Laws of the connectors: shapes, counts of tokens, and transformers' own answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.errors import RefusedError
from surgery_plugins.modules.grid import shuffle, transpose, unshuffle
from surgery_plugins.surgeries.resampler.kinds import KINDS
from tests.resampler.kit import SIZES, TEXT, TOKENS, TOWER, build, idefics2, idefics3

transformers = pytest.importorskip("transformers")
models: Any = transformers.models


def tokens(n: int = 16, width: int = TOWER, batch: int = 2) -> Tensor:
    return torch.randn(batch, n, width, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_tokens_come_out_as_are_promised(kind: str) -> None:
    module: Any = build(kind)
    for n in (16, 64):
        assert module(tokens(n)).shape == (2, module.out_tokens(n), TEXT)
    assert module.out_tokens(16) == TOKENS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_of_a_batch_do_not_touch(kind: str) -> None:
    module, batch = build(kind), tokens()
    assert torch.allclose(module(batch)[:1], module(batch[:1]), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_joined_the_blocks_gets_the_same_answer(kind: str) -> None:
    module: Any = build(kind)
    wanted = module(tokens())
    module.joined = 2
    assert torch.equal(module(shuffle(tokens(), 2)), wanted)


@settings(max_examples=25, deadline=None)
@given(blocks=st.integers(1, 4), factor=st.integers(1, 4), width=st.integers(1, 3))
def test_unshuffle_undoes_shuffle(blocks: int, factor: int, width: int) -> None:
    given_tokens = tokens((blocks * factor) ** 2, width)
    joined = shuffle(given_tokens, factor)
    assert joined.shape == (2, blocks**2, width * factor**2)
    assert torch.equal(unshuffle(joined, factor), given_tokens)
    assert torch.equal(transpose(transpose(given_tokens)), given_tokens)


def test_shuffle_is_that_of_internvl_and_idefics3() -> None:
    grid = tokens(36)
    internvl = models.internvl.modeling_internvl.InternVLModel.pixel_shuffle
    theirs = internvl(None, grid.view(2, 6, 6, TOWER), 0.5).reshape(2, 9, -1)
    assert torch.equal(shuffle(grid, 2), theirs)
    idefics = models.idefics3.modeling_idefics3.Idefics3Connector.pixel_shuffle
    assert torch.equal(shuffle(grid, 3), idefics(None, grid, 3))


def config(**values: Any) -> Any:
    return SimpleNamespace(
        vision_config=SimpleNamespace(
            hidden_size=TOWER, layer_norm_eps=1e-6, image_size=32, patch_size=8
        ),
        text_config=SimpleNamespace(hidden_size=TEXT),
        projector_hidden_act="gelu",
        **values,
    )  # fmt: skip


def same(ours: nn.Module, theirs: nn.Module, given_tokens: Tensor, *rest: Any) -> None:
    theirs.load_state_dict(ours.state_dict())
    wanted = theirs.eval()(given_tokens, *rest)
    assert torch.allclose(ours(tokens()), wanted.view(2, -1, TEXT), atol=1e-6)


def test_two_layers_are_llavas_projector() -> None:
    theirs = models.llava.modeling_llava.LlavaMultiModalProjector(
        config(vision_feature_layer=-2, multimodal_projector_bias=True)
    )
    same(build("mlp", layers=2, hidden=TEXT, norm=False), theirs, tokens())


def test_pixel_shuffle_is_internvls_projector() -> None:
    theirs = models.internvl.modeling_internvl.InternVLMultiModalProjector(
        config(downsample_ratio=0.5)
    )
    same(build("pixel_shuffle", hidden=TEXT), theirs, shuffle(tokens(), 2))


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_the_merger_is_qwens_on_grouped_tokens(norm: str) -> None:
    theirs = (
        models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLPatchMerger
        if norm == "rms"
        else models.qwen2_vl.modeling_qwen2_vl.PatchMerger
    )(TEXT, TOWER, 2)
    same(build("patch_merger", norm=norm, grouped=True), theirs, tokens())
    by_rows: Any = build("patch_merger", norm=norm)
    grouped = shuffle(tokens(), 2).reshape(2, 16, TOWER)
    theirs.load_state_dict(by_rows.state_dict())
    assert torch.allclose(by_rows(tokens()), theirs(grouped).view(2, -1, TEXT), atol=1e-6)


def test_the_normed_pool_is_gemma3s() -> None:
    theirs = models.gemma3.modeling_gemma3.Gemma3MultiModalProjector(config(mm_tokens_per_image=4))
    same(build("normed_avg_pool", factor=2), theirs, tokens())


def test_the_perceiver_is_idefics2s_with_and_without_a_mask() -> None:
    theirs: Any = idefics2()
    theirs = theirs.model.connector
    hidden = theirs.modality_projection.gate_proj.out_features
    ours = build("perceiver", hidden=hidden, latents=5, depth=2)
    mask = torch.ones(2, 16, dtype=torch.bool)
    same(ours, theirs, tokens(), mask)
    mask[:, 9:] = False
    assert torch.equal(ours(tokens(), mask), theirs(tokens(), mask))


def test_one_matrix_behind_the_shuffle_is_idefics3s() -> None:
    theirs: Any = idefics3()
    ours = build(
        "pixel_shuffle", layers=1, hidden=0, act="linear", bias=False, norm=False
    )  # fmt: skip
    theirs.model.connector.modality_projection.proj.weight.data = ours.linear_1.weight.data  # type: ignore[union-attr]
    assert torch.equal(ours(tokens()), theirs.model.connector(tokens()))


def test_tokens_that_a_mask_leaves_out_do_not_reach_queries() -> None:
    module = build("qformer")
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[:, 8:] = False
    changed = tokens().clone()
    changed[:, 8:] = 7.0
    assert torch.allclose(module(tokens(), mask), module(changed, mask), atol=1e-6)
    assert not torch.allclose(module(tokens()), module(changed), atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "n"),
    [("avg_pool", 15), ("pixel_shuffle", 9), ("patch_merger", 17), ("c_abstractor", 8)],
)  # fmt: skip
def test_tokens_that_are_no_such_grid_are_refused(kind: str, n: int) -> None:
    module: Any = build(kind)
    with pytest.raises(RefusedError, match=f"{n} tokens"):
        module.out_tokens(n)


def test_every_size_reaches_the_module() -> None:
    for kind, sizes in SIZES.items():
        assert set(sizes) == set(KINDS[kind].sizes), kind
