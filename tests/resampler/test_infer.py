"""Laws of inference: shapes tell every size but those that are invisible in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import IntegrityError
from surgery_plugins.surgeries.resampler import Resampler
from surgery_plugins.surgeries.resampler.infer import infer, infer_one
from surgery_plugins.surgeries.resampler.kinds import KINDS
from surgery_plugins.surgeries.resampler.values import shapes_of
from tests.resampler.kit import INVISIBLE, SIZES, TEXT, TOWER, idefics3, internvl, llava

ENDS = {"in_features": TOWER, "out_features": TEXT}


def shapes(kind: str, prefix: str = "", **sizes: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = KINDS[kind].build(**{**ENDS, **SIZES[kind], **sizes})
    return {prefix + name: shape for name, shape in shapes_of(module).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_and_all_visible_sizes_are_told(kind: str) -> None:
    found = infer_one(shapes(kind, "a.b."), "here", kind=kind)
    assert found.prefix == "a.b."
    wanted = {**ENDS, **SIZES[kind]}
    assert {n: v for n, (v, _) in found.sizes.items()} == {
        n: v for n, v in wanted.items() if n not in INVISIBLE[kind]
    }
    assert set(KINDS[kind].all_sizes) - set(found.sizes) == INVISIBLE[kind]
    assert set(found.candidates) <= INVISIBLE[kind]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"mlp"}))
def test_kinds_are_told_apart(kind: str) -> None:
    assert [one.kind for one in infer(shapes(kind))] == [kind]


def test_an_mlp_without_norms_may_be_a_pixel_shuffle_so_both_are_named() -> None:
    with pytest.raises(IntegrityError, match=r"2: mlp below '', pixel_shuffle below ''"):
        infer_one(shapes("mlp", layers=2, norm=False), "here")


@settings(max_examples=20, deadline=None)
@given(
    hidden=st.integers(1, 40), depth=st.integers(1, 12), d_inner=st.integers(1, 80),
    d_state=st.integers(1, 9), d_conv=st.integers(1, 5), dt_rank=st.integers(1, 9),
    conv_bias=st.booleans(), proj_bias=st.booleans(),
)  # fmt: skip
def test_a_bimamba_comes_back_with_its_exact_sizes(**sizes: Any) -> None:
    (found,) = infer(shapes("bimamba", "x.", **sizes))
    assert {n: found.sizes[n][0] for n in sizes} == sizes


def test_the_report_of_case_003_is_read_off_two_shapes() -> None:
    sizes: dict[str, Any] = {
        "hidden": 1024,
        "d_inner": 1792,
        "d_state": 64,
        "dt_rank": 64,
        "depth": 4,
    }
    stored = shapes(
        "bimamba", "resampler_module.resampler.", in_features=1152, out_features=768, **sizes
    )
    (found,) = infer(stored)
    assert {n: found.sizes[n][0] for n in sizes} == sizes
    assert found.sizes["hidden"] == (1024, "resampler_module.resampler.input_proj.weight")
    assert stored["resampler_module.resampler.blocks.0.forward_block.in_proj.weight"] == (
        3584,
        1024,
    )


@settings(max_examples=12, deadline=None)
@given(heads=st.integers(1, 6), groups=st.integers(1, 3), dim=st.integers(1, 12))
def test_one_of_three_invisible_sizes_tells_the_others(heads: int, groups: int, dim: int) -> None:
    sizes: dict[str, Any] = {"heads": heads * groups, "kv_heads": heads, "head_dim": dim}
    stored = shapes("perceiver", **sizes)
    for name in sizes:
        (found,) = infer(stored, known={name: sizes[name]})
        assert {n: found.sizes[n][0] for n in sizes} == sizes
    (blind,) = infer(stored)
    assert f"{heads * groups}/{heads}/{dim}" in blind.candidates["heads"] or dim < 6


def test_the_tower_tells_the_factor_of_a_pixel_shuffle() -> None:
    (found,) = infer(shapes("pixel_shuffle", factor=2), known={"in_features": TOWER})
    assert found.sizes["factor"][0] == 2
    (blind,) = infer(shapes("pixel_shuffle", factor=2))
    assert "2 with in_features 32" in blind.candidates["factor"]


@settings(max_examples=10, deadline=None)
@given(prefix=st.from_regex(r"\A([a-z][a-z0-9_]{0,5}\.){0,4}\Z"))
def test_any_prefix_is_found(prefix: str) -> None:
    (found,) = infer(shapes("qformer", prefix))
    assert found.prefix == prefix


@pytest.mark.parametrize(("host", "path"), [
    (llava, "model.multi_modal_projector."), (internvl, "model.multi_modal_projector."),
    (idefics3, "model.connector."),
])  # fmt: skip
def test_a_connector_is_found_inside_a_whole_checkpoint(host: Any, path: str) -> None:
    kind = "mlp" if host is llava else "pixel_shuffle"
    found = infer(shapes_of(host()), kind=kind)
    assert path in {one.prefix for one in found}


def test_other_projects_names_are_understood() -> None:
    remote = {
        "mlp1.0.weight": (128,), "mlp1.0.bias": (128,), "mlp1.1.weight": (24, 128),
        "mlp1.1.bias": (24,), "mlp1.3.weight": (24, 24), "mlp1.3.bias": (24,),
    }  # fmt: skip
    (found,) = infer(remote, known={"in_features": 32})
    assert (found.kind, found.prefix, found.sizes["factor"][0]) == ("pixel_shuffle", "mlp1.", 2)
    assert found.names["layer_norm.bias"] == "mlp1.0.bias"
    normed = {
        "p.mlp.0.weight": (20, 32), "p.mlp.1.weight": (20,), "p.mlp.3.weight": (20, 20),
        "p.mlp.4.weight": (20,), "p.mlp.6.weight": (24, 20),
    }  # fmt: skip
    (found,) = infer(normed)
    assert (found.kind, found.sizes["layers"][0], found.sizes["norm"][0]) == ("mlp", 3, True)


def test_a_tensor_that_does_not_belong_hides_the_connector() -> None:
    stored = {**shapes("bimamba", "r."), "r.extra.weight": (3, 3)}
    assert infer(stored) == ()
    with pytest.raises(IntegrityError, match="none that fits"):
        infer_one(stored, "here")


def test_the_surgery_offers_inference_to_whoever_finds_it_by_name() -> None:
    from surgery.hooks.registry import registry

    surgery: Any = registry().surgery("resampler")
    assert surgery is Resampler
    (found,) = surgery.infer(shapes("bimamba", "r."))
    assert (found.kind, found.sizes["d_inner"][0]) == ("bimamba", 29)


def test_the_shapes_tell_no_size_that_would_build_another_table() -> None:
    for kind in KINDS:
        (found,) = infer(shapes(kind), kind=kind)
        told: dict[str, Any] = {n: v for n, (v, _) in found.sizes.items()}
        assert shapes(kind, **told) == shapes(kind)
