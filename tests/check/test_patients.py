"""``check_patient``: models that a program builds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.stated import Stated
from surgery.flow.check import Examined, Inputs, check_patient
from surgery.hooks.registry import registry
from surgery.operate.patient import Patient
from tests.families.meta_sam2 import meta_sam2
from tests.rope import kit as models
from tests.rope.lookalike import Trunk


def checked(model: nn.Module, **inputs: Any) -> Examined:
    patient = Patient(model.to("meta"), config=getattr(model, "config", None))
    stated = {name: Stated(shape) for name, shape in inputs.items()}
    return check_patient(patient, registry().families(), Inputs(stated))


def statuses(found: Examined) -> list[str]:
    return [check.status for check in found.checks]


def test_a_model_without_a_forward_of_its_own_is_checked_by_its_contracts_alone() -> None:
    found = checked(meta_sam2(), img_batch=(1, 3, 256, 256))
    assert statuses(found) == ["passed", "skipped"]
    assert "MetaSam2 has no forward of its own" in found.checks[1].detail
    assert (found.ok, found.complete) == (True, False)
    assert not checked(meta_sam2(), img_batch=(1, 3, 320, 320)).ok


class Lazy(nn.Module):
    """Its forward is there; a part of it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.part = meta_sam2()

    def forward(self, x: Tensor) -> Any:
        return self.part(x)


def test_a_part_without_a_forward_is_a_failure() -> None:
    found = checked(Lazy(), x=(1, 3, 256, 256))
    assert found.checks[-1].status == "failed"
    assert "breaks off in part" in found.checks[-1].detail


class Nameless(nn.Module):
    def forward(self, session: Any) -> Any:
        return session.step()


def test_where_nothing_can_be_checked_that_is_not_well() -> None:
    found = checked(Nameless())
    assert statuses(found) == ["skipped", "skipped"]
    assert not found.ok


def test_a_trunk_with_complex_tables_is_rehearsed_on_meta() -> None:
    assert statuses(checked(Trunk(), x=(1, 3, 126, 126))) == ["passed", "passed"]
    wrong = checked(Trunk(), x=(1, 3, 140, 140))
    assert statuses(wrong) == ["failed", "failed"]
    assert wrong.rehearsal is not None
    assert wrong.rehearsal.where == "blocks.1.attn"


def test_a_patient_with_weights_keeps_its_inputs_and_its_forward_is_not_run() -> None:
    model = models.sam3_trunk()
    patient = Patient(model, config=model.config, inputs=None)
    found = check_patient(patient, registry().families(), Inputs(image=(140, 140)))
    assert statuses(found) == ["failed", "skipped"]
    assert patient.inputs is None


def test_a_rehearsal_leaves_no_hook_behind() -> None:
    checked(Trunk(), x=(1, 3, 140, 140))
    from torch.nn.modules import module

    assert not module._global_forward_hooks
    assert not module._global_forward_pre_hooks
    assert torch.nn.Linear(1, 1)(torch.ones(1)).shape == (1,)
