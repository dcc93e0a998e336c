"""Law: the same recipe gives the same bytes, on a live model and file by file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.checkpoint.tensors import TensorReader
from surgery.errors import RefusedError
from surgery.flow.recipe import Outcome, apply_recipe
from surgery.flow.run import Run, Way
from surgery.flow.write import Engine
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from tests.stream.models import MODELS, save

LINEAR = {"role": ["attention.q", "attention.v", "attention.proj", "mlp.up"]}
ATTENTION = {"role": ["attention.q", "attention.v", "attention.proj"]}
STEPS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"use": "lora", "at": LINEAR, "with": {"rank": 2}}],
    "dora and rslora": [
        {"use": "freeze"},
        {"use": "lora", "at": ATTENTION, "with": {"rank": 2, "dora": True, "rslora": True}},
    ],
    "merged": [
        {"use": "lora", "at": ATTENTION, "with": {"rank": 2, "dora": True, "init": "gaussian"}},
        {"use": "merge"},
    ],
}


def run(base: Path, steps: Any, way: Way, out: str, save: str, **more: Any) -> Outcome:
    path = base.parent / f"{out}.yaml"
    data = {
        "recipe": 1, "patient": {"source": "hf", "path": str(base)}, "surgeries": steps,
        "output": {"path": f"./{out}", "save": save},
    }  # fmt: skip
    path.write_text(json.dumps(data))
    recipe = read_recipe(str(path), registry=registry())
    return apply_recipe(recipe, registry(), Run(way, **more))


def files(folder: Path) -> dict[str, bytes]:
    left_out = {"recipe.yaml", "surgery.manifest.json"}
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if name not in left_out}


def matrix() -> Iterator[Any]:
    """Every combination; each model once, and in turn each of the others, runs by default."""
    ways = list(product(STEPS, ("changed", "full"), (False, True)))
    for place, name in enumerate(MODELS):
        for number, (steps, kind, shards) in enumerate(ways):
            mark = () if number == 5 * place % len(ways) else pytest.mark.slow
            words = (name, steps, kind, "shards" if shards else "one file")
            yield pytest.param(name, STEPS[steps], kind, shards, marks=mark, id="-".join(words))


@pytest.mark.parametrize(("name", "steps", "kind", "shards"), list(matrix()))
def test_live_and_streamed_outputs_are_equal(
    name: str, steps: Any, kind: str, shards: bool, tmp_path: Path
) -> None:
    base = save(name, tmp_path / "base", shards)
    live = run(base, steps, "live", "live", kind)
    streamed = run(base, steps, "stream", "streamed", kind)
    assert live.mode is not None
    assert streamed.mode is not None
    assert (live.mode.streamed, streamed.mode.streamed) == (False, True)
    assert files(tmp_path / "live") == files(tmp_path / "streamed")
    again = surgery.load(tmp_path / "streamed")
    wanted = {row.name: (row.shape, row.dtype, row.trainable) for row in live.plan.after}
    found = {row.name: (row.shape, row.dtype, row.trainable) for row in again.plan.after}
    assert found == wanted


def test_what_did_not_change_is_linked(tmp_path: Path) -> None:
    base = save("llama", tmp_path / "base", True)
    at = {"path": "model.layers.0.self_attn.q_proj"}
    steps = [{"use": "lora", "at": at, "with": {"init": "gaussian"}}, {"use": "merge"}]
    run(base, steps, "stream", "out", "full")
    same = [p for p in base.glob("*.safetensors") if (tmp_path / "out" / p.name).samefile(p)]
    others = {p.name for p in base.glob("*.safetensors")} - {p.name for p in same}
    assert len(others) == 1
    held = TensorReader(tmp_path / "out" / others.pop()).entries
    assert "model.layers.0.self_attn.q_proj.weight" in held


def test_a_whole_model_loads_in_plain_transformers_and_by_its_journal(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    base = save("llama tied", tmp_path / "base", True)
    at = {"role": ["attention.q", "mlp.down"]}
    steps = [{"use": "lora", "at": at}, {"use": "merge"}, {"use": "lora", "at": at}]
    run(base, steps, "stream", "out", "full")
    ids = torch.tensor([[1, 5, 9]])
    plain, info = LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    ours = surgery.load(tmp_path / "out")
    assert len(ours.plan.trainable) > 0
    with torch.no_grad():
        assert torch.equal(plain.eval()(ids).logits, ours.model(ids).logits)
    with pytest.raises(RefusedError, match="without"):
        ours.undo()
    based = surgery.load(tmp_path / "out", base=base)
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, based.model(ids).logits)
    based.undo()
    old = LlamaForCausalLM.from_pretrained(base).state_dict()
    assert all(torch.equal(t, old[n]) for n, t in based.model.state_dict().items())


def test_a_stacked_tensor_cannot_be_written_file_by_file(tmp_path: Path) -> None:
    base = save("mixtral (stacked on load)", tmp_path / "base", True)
    at = {"path": "**.experts.down_proj"}
    steps = [{"use": "lora", "at": at, "with": {"rank": 2}}, {"use": "merge"}]
    with pytest.raises(RefusedError, match="another form"):
        run(base, steps, "stream", "out", "full")
    assert not (tmp_path / "out").exists()
    outcome = run(base, steps, "auto", "out", "full")
    assert outcome.mode is not None
    assert "another form" in outcome.mode.why
    from transformers import MixtralForCausalLM

    _, info = MixtralForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


def test_memory_bounds_what_is_computed_at_once(tmp_path: Path) -> None:
    base = save("llama", tmp_path / "base", False)
    steps = STEPS["merged"]
    with pytest.raises(RefusedError, match="--memory"):
        run(base, steps, "stream", "out", "full", engine=Engine(memory=100))
    outcome = run(base, steps, "auto", "out", "full", engine=Engine(memory=10_000))
    assert outcome.mode is not None
    assert outcome.mode.streamed
