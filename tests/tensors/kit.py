"""State dicts without a model, and what is compared of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from surgery.flow.recipe import Outcome, apply_recipe
from surgery.flow.run import Run, Way
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe


def state() -> dict[str, Tensor]:
    """Give tensors of several dtypes; one name begins others, one is a method of modules."""
    made = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for n in (0, 1, 10):
        for part, rows in (("q", 4), ("k", 2), ("v", 2)):
            found[f"layers.{n}.attn.{part}.weight"] = torch.randn(rows, 4, generator=made)
        found[f"layers.{n}.norm.weight"] = torch.randn(4, generator=made).to(torch.bfloat16)
    found["encoder.modules.weight"] = torch.randn(4, 6, generator=made).half()
    found["encoder.modules"] = torch.arange(3)
    found["freqs"] = torch.randn(3, 2, generator=made, dtype=torch.complex64)
    found["scalar"] = torch.tensor(2.5)
    found["empty"] = torch.zeros(0, 3)
    return found


def write(folder: Path, shards: int = 1, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """Write a state dict into a folder, in one file or in several."""
    folder.mkdir(parents=True)
    tensors = tensors or state()
    if shards == 1:
        save_file(dict(tensors), folder / "weights.safetensors", {"by": "hand"})
        return folder
    listed: dict[str, str] = {}
    for shard in range(shards):
        own = {name: t for k, (name, t) in enumerate(tensors.items()) if k % shards == shard}
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        save_file(own, folder / file)
        listed.update(dict.fromkeys(own, file))
    index = {"metadata": {}, "weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read(folder: Path) -> dict[str, Tensor]:
    """Read every tensor of a folder's own files."""
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def run(base: Path, steps: Any, way: Way, out: str, save: str, source: str = "tensors") -> Outcome:
    """Apply steps to a base, beside which the output goes."""
    data = {
        "recipe": 1, "patient": {"source": source, "path": str(base)}, "surgeries": steps,
        "output": {"path": f"./{out}", "save": save},
    }  # fmt: skip
    path = base.parent / f"{out}.yaml"
    path.write_text(json.dumps(data))
    return apply_recipe(read_recipe(str(path), registry=registry()), registry(), Run(way))


def files(folder: Path) -> dict[str, bytes]:
    """Give the bytes of an output, but for its recipe and manifest."""
    left_out = {"recipe.yaml", "surgery.manifest.json"}
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if name not in left_out}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether two state dicts hold the same names, dtypes and bits."""
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


def step(do: str, names: Any, **options: Any) -> dict[str, Any]:
    """Give a step as a recipe writes it."""
    return {"use": "tensors", "with": {"do": do, "names": names, **options}}
