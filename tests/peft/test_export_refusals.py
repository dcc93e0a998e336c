"""What no adapter of PEFT can carry is refused with the reason; what one can, is carried."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Place, Rewrite, SetConfig
from surgery.operate.surgery import Surgery
from surgery_plugins.peft.export import export_adapter
from tests.peft import kit
from tests.peft.kit import TOLERANCE, Make, answer, difference, fresh, in_peft, stir
from tests.peft.test_export import FREEZE, QV, Q, exported, lora, operated, unfreeze

pytestmark = pytest.mark.filterwarnings("ignore")

REFUSED: dict[str, tuple[Make, list[dict[str, Any]], str]] = {
    "out projection": (kit.Attention, [lora({"path": "attn.out_proj"})], "applied twice"),
    "padding": (
        lambda: kit.Stack(2, padding_mode="circular"),
        [lora({"path": "a"})],
        "pads with zeros",
    ),
    "dilation": (lambda: kit.Stack(2, dilation=2), [lora({"path": "a"})], "dilation"),
    "no adapter": (kit.llama, [unfreeze("lm_head")], "an adapter"),
    "dora of some": (
        kit.llama,
        [Q, lora({"role": "attention.v"}, dora=True)],
        "dora for all sites",
    ),
    "adapter in a whole module": (
        kit.llama,
        [Q, unfreeze("model.layers.0.self_attn.q_proj")],
        "trained itself",
    ),
    "adapter and rows": (
        kit.llama,
        [lora({"role": "embedding"}), unfreeze("model.embed_tokens", rows="3")],
        "trained itself",
    ),
    "rows of a layer": (
        kit.biased,
        [Q, unfreeze("model.layers.0.self_attn.o_proj", rows="3")],
        "no embedding and no head",
    ),
}


@pytest.mark.parametrize(("make", "steps", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_peft_cannot_express_is_refused_with_the_reason(
    make: Make, steps: list[dict[str, Any]], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=reason):
        exported(operated(make, steps), tmp_path / "peft")


class Odd(Surgery):
    """Do one thing to a model that is not training."""

    name: ClassVar[str] = "test/odd"
    what: str

    def refuse(self, site: Any) -> str | None:
        return None

    def operate(self, sites: Any, patient: Any) -> list[Edit]:
        return [EDITS[self.what]]


def double(weight: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    return weight * 2


def taller(weight: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    return torch.cat([weight, weight[:1]])


HEAD = Derive(("lm_head.weight",), double)
EDITS: dict[str, Edit] = {
    "another shape": Rewrite(
        "lm_head.weight", (33, 16), "float32", Derive(("lm_head.weight",), taller)
    ),
    "an exchanged module": Place(
        "lm_head", nn.Linear(16, 32, bias=False, device="meta"), {"weight": HEAD}
    ),
    "a setting": SetConfig("rms_norm_eps", 0.1),
    "another value": Rewrite("lm_head.weight", (32, 16), "float32", HEAD),
}
REASONS = {
    "another shape": r"\(32, 16\) became \(33, 16\)",
    "an exchanged module": "a module that test/odd exchanged",
    "a setting": "a setting that test/odd changed",
}


@pytest.mark.parametrize("what", REASONS)
def test_what_an_adapter_cannot_carry_is_refused(what: str, tmp_path: Path) -> None:
    applied = surgery.apply(fresh(kit.llama), [Odd(what=what), FREEZE, Q])
    with pytest.raises(RefusedError, match=REASONS[what]):
        exported(applied, tmp_path / "peft")


def test_another_method_s_layers_are_refused(tmp_path: Path) -> None:
    loha = {"use": "peft", "at": {"path": "lm_head"}, "with": {"method": "loha"}}
    applied = surgery.apply(fresh(kit.llama), [FREEZE, loha, Q])
    with pytest.raises(RefusedError, match=r"the extension peft\.default"):
        exported(applied, tmp_path / "peft")


def test_a_rewritten_weight_of_the_same_shape_is_carried(tmp_path: Path) -> None:
    applied = surgery.apply(fresh(kit.llama), [Odd(what="another value"), FREEZE, Q])
    stir(applied.model)
    theirs = in_peft(fresh(kit.llama), exported(applied, tmp_path / "peft"))
    assert difference(answer(theirs), answer(applied.model)) <= TOLERANCE


def test_a_base_that_lost_more_than_its_adapter_holds_is_refused(tmp_path: Path) -> None:
    steps = [FREEZE, lora({"role": "attention.q"}, init="loftq")]
    applied = surgery.apply(fresh(kit.llama), steps)
    with pytest.raises(RefusedError, match="more than the adapters took"):
        exported(applied, tmp_path / "peft")


def test_an_adapter_that_took_a_part_of_the_base_wants_its_beginning(tmp_path: Path) -> None:
    applied = surgery.apply(fresh(kit.llama), [FREEZE, lora({"role": QV}, init="olora")])
    with pytest.raises(RefusedError, match="export the operation as a whole"):
        export_adapter(applied.model, "default", tmp_path)
