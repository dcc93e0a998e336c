"""What the laws found: each was once broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import surgery
from surgery.flow.files import base_of
from surgery.flow.memory import Applied
from surgery.flow.merge import merge_output
from surgery.hooks.registry import Registry
from surgery.testing import ZooSource, case_of, held, patient
from surgery.testing.draw import steps_of_names
from tests.laws.menu import menu

Sources = dict[tuple[str, str], ZooSource]


@pytest.mark.parametrize(
    ("law", "breed", "names"),
    [
        # values that training gave to what was cast or moved were not stored
        ("replay equals original", "split", ["cast a part"]),
        ("replay equals original", "fused", ["order layers"]),
        # a tensor that was added and then cast was stored under the name of what it had become
        ("replay equals original", "two towers", ["attach", "cast"]),
        # what a behaviour noted on a module stayed there after an undo
        ("replay equals original", "convolutional", ["attach"]),
        # a weight was not found in the files under its tied name
        ("live equals streaming", "tied", ["untie"]),
        # parts and whole weights in one selection
        ("undo gives exact bits", "two towers", ["train queries"]),
    ],
)
def test_a_law_that_was_broken_holds(
    law: str, breed: str, names: list[str], sources: Sources, known: Registry
) -> None:
    case = case_of(sources[breed, "float32"], steps_of_names(menu(breed), names), known)
    found = held(law, case)
    assert found.status == "passed", found.detail


def test_what_training_gave_to_cast_weights_outlives_a_merge(
    sources: Sources, known: Registry, tmp_path: Path
) -> None:
    source, name = sources["split", "float32"], "layers.0.mlp.up_proj.weight"
    steps = steps_of_names(menu("split"), ["cast a part", "lora on embedding"])
    done = surgery.apply(source.load(), steps, plugins=known)
    with torch.no_grad():
        done.model.get_parameter(name).fill_(0.5)
    Applied(done.operation, (), base_of(source), source).save(tmp_path / "trained")
    merge_output(tmp_path / "trained", tmp_path / "merged", known, whole=False)
    again = surgery.load(tmp_path / "merged", plugins=known)
    assert again.journal.tensors[name].stored
    assert (again.model.get_parameter(name) == 0.5).all()


def test_the_shape_of_another_tensor_is_no_provenance() -> None:
    found = patient("experts", device="meta")
    sites = surgery.walk(found.model, found.inputs).sites
    roles = {site.path: site.roles for site in sites}
    assert roles["layers.0.mlp.down"] == {"mlp.down"}
    assert roles["layers.0.mlp.up"] == {"mlp.up"}
