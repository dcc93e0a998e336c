"""Steps on tensors that cannot be done are refused, and say what would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import SurgeryError
from surgery.operate.patient import Patient
from surgery_plugins.modules.container import tree_of
from tests.rope import kit as models
from tests.tensors import kit
from tests.tensors.kit import step

Q, K = "layers.<n>.attn.q.weight", "layers.<n>.attn.k.weight"

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown verb": (step("cpoy", "freqs", to="x"), "'copy', 'move'"),
    "no target": (step("copy", "freqs"), "expected to to copy, got none"),
    "a foreign option": (step("copy", "freqs", to="x", axis=0), "no axis to copy"),
    "two names to move": (step("move", ["freqs", "empty"], to="x"), "one name to move, got 2"),
    "two targets": (step("copy", "freqs", to=["x", "y"]), "one name under to, got 2"),
    "one part": (step("split", Q, to=["a.<n>"], axis=0), "two names or more"),
    "no names": (step("remove", []), "one name at least"),
    "a wrong capture": (step("copy", "layers.<n>.**", to="x.<m>"), r"\(<n>\), got <m>"),
    "a broken capture": (step("copy", "layers.<n", to="x"), "captures such as <n>"),
    "factors": (step("add", [Q, K], to="x.<n>", by=[1.0]), "2 factors, one for each name"),
    "sizes": (step("split", Q, to=["a.<n>", "b.<n>"], axis=0, sizes=[4]), "2 sizes of 1"),
    "axes": (step("permute", Q, axes=[0, 2]), "each axis from 0 once"),
    "nothing matches": (step("scale", "layers.*.atn.q.weight", by=2.0), "no match among 17"),
    "a count": (step("scale", "**.q.weight", by=2.0, count=4), "expected 4 tensors, got 3"),
    "a taken name": (step("copy", "freqs", to="scalar"), "write `replace: true`"),
    "one name for all": (step("copy", Q, to="x"), "let `to:` hold every capture"),
    "a name that is read": (step("move", "layers.<n>.attn.<p:{q,k}>.weight",
                                 to="layers.<n>.attn.k.weight", replace=True), "a name for each"),
    "other shapes": (step("add", [Q, K], to="x.<n>"), r"float32 \(4, 4\), as .*\(2, 4\)"),
    "a number without axes": (step("concatenate", "{scalar,freqs}", to="x", axis=0), "an axis 0"),
    "integers": (step("scale", "encoder.modules", by=2.0), "floating numbers to scale, got int64"),
    "a missing partner": (step("add", ["layers.<n>.attn.<p>.weight", "layers.<n>.norm.bias"],
                               to="x.<n>.<p>"), "no such tensor.*layers.0.norm.weight"),
    "unequal parts": (step("split", K, to=["a.<n>", "b.<n>", "c.<n>"], axis=0), "`sizes:`"),
    "sizes that are not all": (step("split", K, to=["a.<n>", "b.<n>"], axis=0, sizes=[1, 2]),
                               r"parts of \[1, 2\].*2 along axis 0"),
    "an axis": (step("concatenate", [Q, K], to="x.<n>", axis=2), "an axis 2"),
    "a stacking axis": (step("stack", Q, to="x", axis=3), "axis up to 2"),
    "axes of another number": (step("permute", Q, axes=[2, 0, 1]), "a tensor of 3 axes"),
    "everything removed": (step("remove", "**"), "something to be left"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_step_is_refused_and_leaves_no_trace(name: str) -> None:
    wrong, message = WRONG[name]
    model = tree_of(kit.state().items())
    with pytest.raises(SurgeryError, match=message):
        surgery.apply(Patient(model), wrong)
    assert kit.same({n: t.data for n, t in model.state_dict().items()}, kit.state())


MODEL: dict[str, tuple[dict[str, Any], str]] = {
    "a new name": (step("copy", "vit.layernorm.weight", to="vit.layernorm.extra"), "bare state"),
    "a name taken out": (step("remove", "vit.layernorm.weight"), "a bare state dict"),
    "a moved name": (step("move", "vit.layernorm.weight", to="vit.layernorm.bias", replace=True),
                     "write `keep: true`"),
    "another shape": (step("concatenate", ["vit.layernorm.weight", "vit.layernorm.bias"],
                           to="vit.layernorm.weight", axis=0, keep=True), "its module takes"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODEL)
def test_the_modules_of_a_model_keep_their_names_and_shapes(name: str) -> None:
    wrong, message = MODEL[name]
    with pytest.raises(SurgeryError, match=message):
        surgery.apply(models.vit(), wrong)


def test_values_in_a_model_change_in_place_and_come_back() -> None:
    model = models.vit()
    before = models.bits(model)
    steps = [
        step("scale", "**.attention.<p:{q,k}*>.weight", by=0.5),
        step("copy", "vit.layers.0.<rest:**>", to="vit.layers.1.<rest>", replace=True),
        step("fill", "classifier.bias", value=0.0),
    ]
    with surgery.apply(model, steps):
        state = model.state_dict()
        one, other = ({n[13:]: t for n, t in state.items() if n.startswith(f"vit.layers.{k}.")}
                      for k in (0, 1))  # fmt: skip
        assert kit.same(one, other)
        name = "vit.layers.0.attention.q_proj.weight"
        assert torch.equal(state[name], before[name][3] * 0.5)
        assert not state["classifier.bias"].any()
    assert models.same_bits(before, models.bits(model))


def test_only_what_lies_below_the_sites_is_found() -> None:
    model = models.vit()
    layer = {**step("scale", "**.weight", by=2.0), "at": {"path": "vit.layers.1"}}
    old = {n: t.clone() for n, t in model.state_dict().items()}
    with surgery.apply(model, layer):
        changed = {n for n, t in model.state_dict().items() if not torch.equal(t, old[n])}
        assert changed
        assert all(n.startswith("vit.layers.1.") for n in changed)


def test_a_tied_tensor_changes_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
            self.two.weight = self.one.weight

    model = Tied()
    old = model.one.weight.detach().clone()
    with surgery.apply(Patient(model), step("scale", "*.weight", by=3.0)):
        assert model.two.weight is model.one.weight
        assert torch.equal(model.one.weight, old * 3)


@pytest.mark.parametrize(
    ("outline", "message"),
    [("[]", "a dtype and a shape"), ('{"a": ["float32", [-1]]}', "a dtype and a shape"),
     ('{"a": ["float33", [1]]}', "a dtype and a shape"), ('{".a": ["float32", [1]]}', "dot")],
)  # fmt: skip
def test_a_wrong_outline_is_refused(outline: str, message: str, tmp_path: Path) -> None:
    from surgery_plugins.sources.tensors import TensorsSource

    base = kit.write(tmp_path / "base")
    (base / "tensors.json").write_text(outline)
    with pytest.raises(SurgeryError, match=message):
        TensorsSource(path=str(base)).build()


def test_names_that_begin_with_a_dot_are_refused(tmp_path: Path) -> None:
    from surgery_plugins.sources.tensors import TensorsSource

    base = kit.write(tmp_path / "base", tensors={".a": torch.zeros(1)})
    for read in (TensorsSource(path=str(base)).build, TensorsSource(path=str(base)).load):
        with pytest.raises(SurgeryError, match="do not begin with a dot"):
            read()
