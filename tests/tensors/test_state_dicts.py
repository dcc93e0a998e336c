"""Laws of the surgery on bare state dicts: live equals stream, replay, undo, exact values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import surgery
from surgery.flow.undo import undo_all, undo_one
from surgery.flow.verify import verify
from surgery.hooks.registry import registry
from tests.tensors import kit
from tests.tensors.kit import step

QKV = [f"layers.<n>.attn.{one}.weight" for one in ("q", "k", "v")]
FUSED = "layers.<n>.attn.qkv.weight"
STEPS: dict[str, list[dict[str, Any]]] = {
    "copy": [step("copy", "layers.<n>.<rest:**>", to="twin.<n>.<rest>")],
    "move": [step("move", "layers.<n>.<rest:**>", to="h.<n>.<rest>", count=12)],
    "scale": [step("scale", ["**.norm.weight", "freqs"], by=0.5)],
    "add": [step("add", ["layers.<n>.attn.k.weight", "layers.<n>.attn.v.weight"], by=[1.0, -2.0],
                 to="layers.<n>.attn.k.weight")],
    "average": [step("add", "layers.<n>.norm.weight", to="mean", by=1 / 3, keep=True)],
    "split": [step("split", QKV[0], to=["layers.<n>.a", "layers.<n>.b"], axis=1, sizes=[1, 3])],
    "fuse": [step("concatenate", QKV, to=FUSED, axis=0)],
    "stack": [step("stack", "layers.<n>.norm.weight", to="norms", axis=0)],
    "permute": [step("permute", "encoder.<x>.weight", axes=[1, 0])],
    "fill": [step("fill", "**.norm.weight", value=1.0),
             step("fill", "encoder.modules.weight", value=0.0, deviation=0.1)],
    "remove": [step("remove", ["freqs", "layers.1.**"])],
    "several": [step("concatenate", QKV, to=FUSED, axis=0), step("scale", "**.qkv.weight", by=3.0),
                step("split", FUSED, to=["h.<n>.one", "h.<n>.two"], axis=0)],
}  # fmt: skip


def wanted(name: str) -> dict[str, Tensor]:
    """Say what each of the steps makes, in plain torch."""
    old = kit.state()
    new = dict(old)
    layers = [name for name in old if name.startswith("layers.")]
    if name == "copy":
        new |= {n.replace("layers", "twin"): old[n] for n in layers}
    elif name == "move":
        new |= {n.replace("layers", "h"): new.pop(n) for n in layers}
    elif name == "scale":
        new |= {n: old[n] * 0.5 for n in old if "norm" in n or n == "freqs"}
    elif name == "average":
        third = [old[f"layers.{n}.norm.weight"].float() * (1 / 3) for n in (0, 1, 10)]
        new["mean"] = (third[0] + third[1] + third[2]).bfloat16()
    elif name == "stack":
        norms = [f"layers.{n}.norm.weight" for n in (0, 1, 10)]
        new["norms"] = torch.stack([new.pop(n) for n in norms])
    elif name == "permute":
        new["encoder.modules.weight"] = old["encoder.modules.weight"].T.contiguous()
    elif name == "remove":
        new = {n: t for n, t in old.items() if n != "freqs" and not n.startswith("layers.1.")}
    elif name == "several":
        for n in (0, 1, 10):
            fused = torch.cat([new.pop(one.replace("<n>", str(n))) for one in QKV]) * 3.0
            new[f"h.{n}.one"], new[f"h.{n}.two"] = fused.chunk(2)
    else:
        _per_layer(name, old, new)
    return new


def _per_layer(name: str, old: dict[str, Tensor], new: dict[str, Tensor]) -> None:
    for n in (0, 1, 10):
        q, k, v = (one.replace("<n>", str(n)) for one in QKV)
        if name == "add":
            new[k] = old[k] - 2 * new.pop(v)
        elif name == "split":
            new[f"layers.{n}.a"], new[f"layers.{n}.b"] = new.pop(q).split([1, 3], 1)
        elif name == "fuse":
            new[FUSED.replace("<n>", str(n))] = torch.cat([new.pop(one) for one in (q, k, v)])
        else:
            raise KeyError(name)


@pytest.mark.parametrize("shards", [1, 3], ids=["one file", "shards"])
@pytest.mark.parametrize("kind", ["changed", "full"])
@pytest.mark.parametrize("name", STEPS)
def test_every_verb_is_the_same_live_and_streamed(
    name: str, kind: str, shards: int, tmp_path: Path
) -> None:
    base = kit.write(tmp_path / "base", shards)
    live = kit.run(base, STEPS[name], "live", "live", kind)
    stream = kit.run(base, STEPS[name], "stream", "stream", kind)
    assert live.mode is not None
    assert stream.mode is not None
    assert (live.mode.streamed, stream.mode.streamed) == (False, True)
    assert kit.files(tmp_path / "live") == kit.files(tmp_path / "stream")
    again = surgery.load(tmp_path / "stream")
    found = {n: t.data for n, t in again.model.state_dict().items()}
    if name != "fill":
        assert kit.same(found, wanted(name))
        assert kind == "changed" or kit.same(kit.read(tmp_path / "live"), wanted(name))
    assert not [c for c in verify(tmp_path / "stream", registry()) if c.status == "failed"]
    based = surgery.load(tmp_path / "stream", base=base)
    assert kit.same(based.model.state_dict(), found)
    based.undo()
    assert kit.same(based.model.state_dict(), kit.state())


def test_what_is_filled_has_the_numbers_that_were_asked_for(tmp_path: Path) -> None:
    base = kit.write(tmp_path / "base")
    kit.run(base, STEPS["fill"], "stream", "out", "full")
    found = kit.read(tmp_path / "out")
    assert all(bool((t == 1).all()) for n, t in found.items() if n.endswith("norm.weight"))
    drawn = found["encoder.modules.weight"].float()
    assert drawn.dtype == torch.float32
    assert 0.03 < drawn.std() < 0.3


def test_undoing_gives_the_files_again(tmp_path: Path) -> None:
    base = kit.write(tmp_path / "base", 2)
    kit.run(base, STEPS["several"], "stream", "out", "full")
    undo_all(tmp_path / "out", tmp_path / "again", registry())
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").glob("*.safetensors")} == {
        p.name: p.read_bytes() for p in base.glob("*.safetensors")
    }


def test_one_of_several_steps_can_be_undone(tmp_path: Path) -> None:
    base = kit.write(tmp_path / "base", 2)
    steps = [*STEPS["scale"], *STEPS["move"]]
    kit.run(base, steps, "stream", "out", "full")
    undo_one(tmp_path / "out", 1, tmp_path / "fewer", registry())
    assert kit.same(kit.read(tmp_path / "fewer"), wanted("scale"))


def test_a_patient_without_a_model_can_be_a_file(tmp_path: Path) -> None:
    base = kit.write(tmp_path / "base") / "weights.safetensors"
    kit.run(base, STEPS["fuse"], "auto", "out", "full")
    assert kit.same(kit.read(base.parent / "out"), wanted("fuse"))
    assert kit.same(surgery.load(base.parent / "out").model.state_dict(), wanted("fuse"))


def test_moved_and_copied_tensors_are_not_stored_again(tmp_path: Path) -> None:
    base = kit.write(tmp_path / "base")
    steps = [*STEPS["move"], step("copy", "freqs", to="again")]
    kit.run(base, steps, "stream", "out", "changed")
    assert kit.read(tmp_path / "out") == {}
