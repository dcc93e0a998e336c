"""``check_patient``: models that a program builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.anatomy.rehearse import rehearse
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


def halved(path: str) -> nn.Module:
    model = models.llama()
    model.get_submodule(path).to(torch.bfloat16)
    return model


@pytest.mark.parametrize("path", ["model.layers.1.mlp.up_proj", "lm_head", "model.layers.0"])
def test_weights_of_another_dtype_than_their_input_are_found(path: str) -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        halved(path)(torch.zeros(1, 3, dtype=torch.long))
    found = checked(halved(path), input_ids=(1, 3)).checks[-1]
    assert found.status == "failed"
    assert f"breaks off in {path}" in found.detail
    assert "expected bfloat16, got float32" in found.detail


@pytest.mark.parametrize("path", ["model.norm", "model"])
def test_a_forward_that_runs_in_two_dtypes_passes(path: str) -> None:
    model = halved(path)
    model.lm_head.to(torch.bfloat16 if path == "model" else torch.float32)
    model(torch.zeros(1, 3, dtype=torch.long))
    assert checked(model, input_ids=(1, 3)).checks[-1].status == "passed"


X = torch.ones(2, 4, 6, 6)
CALLS = {
    "linear": lambda x, w: nn.functional.linear(x, w[:, 0, 0, :6].repeat(1, 2)[:, :6]),
    "matmul": lambda x, w: x @ w[0, 0, :, :1].repeat(3, 1)[:6],
    "conv2d": lambda x, w: nn.functional.conv2d(x, w),
    "transposed": lambda x, w: nn.functional.conv_transpose2d(x, w),
    "layer_norm": lambda x, w: nn.functional.layer_norm(x, (6,), w.flatten()[:6]),
    "group_norm": lambda x, w: nn.functional.group_norm(x, 2, w.flatten()[:4], w.flatten()[:4]),
    "batch_norm": lambda x, w: nn.BatchNorm2d(4).to(w.device, w.dtype).eval()(x),
    "put slice": lambda x, w: x.clone().__setitem__(slice(1), w.flatten()[:6]),
    "rms_norm": lambda x, w: nn.functional.rms_norm(x, (6,), w.flatten()[:6]),
    "add": lambda x, w: x + w.flatten()[:6],
}
KINDS = (torch.float32, torch.bfloat16, torch.float16)


class Calls(nn.Module):
    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.call, self.weight = CALLS[name], nn.Parameter(torch.ones(4, 4, 3, 3, dtype=dtype))

    def forward(self, x: Tensor) -> Any:
        return self.call(x, self.weight)


def runs(model: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            model(x)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("weights", KINDS, ids=str)
def test_meta_takes_the_dtypes_that_a_kernel_takes(
    name: str, dtype: torch.dtype, weights: torch.dtype
) -> None:
    model, x = Calls(name, weights), X.to(dtype)
    assert runs(model, x) == (not rehearse(model.to("meta"), {"x": x}).failure)


@pytest.mark.parametrize(("given", "fits"), [(torch.float16, False), (torch.float32, True)])
def test_what_is_put_at_chosen_places_has_the_dtype_of_what_it_is_put_into(
    given: torch.dtype, fits: bool
) -> None:
    class Put(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            x = x.clone()
            x[torch.tensor([0, 1], device=x.device)] = y
            return x

    inputs = {"x": torch.ones(3, 2), "y": torch.ones(2, 2, dtype=given)}
    found = rehearse(Put(), inputs)
    assert (not found.failure) == fits, found
    if not fits:
        assert "index_put: expected float32, got float16" in found.failure
