"""Hints of families: they agree with the trace, and stand in where there is none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from surgery.anatomy.site import Anatomy
from surgery.anatomy.walk import walk
from surgery.hooks.registry import registry
from tests.families.meta_chat import Chat
from tests.families.meta_sam2 import meta_sam2
from tests.families.meta_sam3 import meta_sam3
from tests.resampler import kit as hosts
from tests.rope import kit as models


def seen(model: Any) -> Anatomy:
    return walk(model, families=registry().families())


@pytest.mark.parametrize("make", [models.sam2, models.sam3, *hosts.HOSTS.values()])
def test_no_family_contradicts_what_the_forward_shows(make: Any) -> None:
    assert [note for note in seen(make()).notes if "says" in note] == []


@pytest.mark.parametrize("make", [models.sam2, models.sam3])
def test_what_a_family_says_of_linear_layers_the_forward_shows_as_well(make: Any) -> None:
    model = make()
    (family,) = [f for f in registry().families() if f.matches(model)]
    traced: dict[str, set[str]] = {}
    for site in walk(model).sites:
        traced.setdefault(site.path, set()).update(site.roles)
    told = {p: r for p, r in family.hints(model).items() if "patch" not in p}
    assert len(told) > 10
    for path, roles in told.items():
        assert roles <= traced[path], path


def test_every_linear_layer_of_metas_sam2_has_the_role_that_its_place_gives_it() -> None:
    model = meta_sam2()
    roles = {s.path: s.roles for s in seen(model).sites if s.evidence == "family"}
    trunk, memory = "image_encoder.trunk", "memory_attention.layers.1"
    wanted = {
        f"{trunk}.patch_embed.proj": "patch_embed",
        f"{trunk}.blocks.4": "layer",
        f"{trunk}.blocks.4.attn.qkv": "attention.qkv",
        f"{trunk}.blocks.4.attn.proj": "attention.proj",
        f"{trunk}.blocks.4.mlp.layers.0": "mlp.up",
        f"{trunk}.blocks.4.mlp.layers.1": "mlp.down",
        "sam_mask_decoder.transformer.layers.0.cross_attn_token_to_image.k_proj": "attention.k",
        f"{memory}.cross_attn_image.out_proj": "attention.proj",
        f"{memory}.linear1": "mlp.up",
    }
    assert {path: roles[path] for path in wanted} == {p: {r} for p, r in wanted.items()}


def test_what_is_no_linear_layer_and_what_only_has_the_name_gets_no_role() -> None:
    model = meta_sam2()
    roles = {s.path for s in seen(model).sites if s.evidence == "family"}
    assert "memory_encoder.fuser.proj" not in roles  # an Identity
    assert "image_encoder.trunk.blocks.1.proj" not in roles  # the skip of a stage
    assert not any(path.startswith("sam_mask_decoder.output_hypernetworks") for path in roles)


def test_metas_sam3_shows_its_trunk_though_no_forward_of_the_whole_runs() -> None:
    anatomy = seen(meta_sam3())
    trunk = "detector.backbone.vision_backbone.trunk"
    roles = {s.path: s.roles for s in anatomy.sites if s.evidence == "family"}
    counted = Counter(r for p, some in roles.items() if p.startswith(trunk) for r in some)
    assert counted == {"layer": 4, "attention.qkv": 4, "attention.proj": 4, "patch_embed": 1}


def test_the_connector_of_a_chat_model_is_its_resampler() -> None:
    (found,) = [s for s in seen(Chat()).sites if s.path == "mlp1"]
    assert found.roles == {"resampler"}
