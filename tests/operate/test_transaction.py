"""Laws of placing and taking back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from surgery.errors import ConflictError, SurgeryError
from surgery.operate.behaviour import Behaviour, base_parameters
from surgery.operate.edits import (
    ChangeTokenizer,
    Derive,
    Extend,
    HoldEval,
    Init,
    Keep,
    NewTensor,
    Place,
    Remove,
    Rewrite,
    SetConfig,
    SetTrainable,
)
from surgery.operate.effective import effective
from surgery.operate.fill import fill
from surgery.operate.patient import Patient
from surgery.operate.table import named_tensors, table_of
from surgery.operate.transaction import Transaction


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))
        self.again = self.body[0]
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(4))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)) * self.scale)


class Config:
    def __init__(self) -> None:
        self.vocab = 7
        self.text = type("Text", (), {"size": 3})()


class Scale(Behaviour):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, by in self.extensions(float):
            x = x * by + getattr(self, name).sum()
        return super().forward(x)


@pytest.fixture
def patient() -> Patient:
    torch.manual_seed(0)
    return Patient(Tied().eval(), config=Config(), tokenizer="old")


def bits(model: nn.Module) -> dict[str, tuple[int, str, bool, list[float]]]:
    return {
        name: (id(tensor), str(tensor.dtype), tensor.requires_grad, tensor.flatten().tolist())
        for name, tensor, _ in named_tensors(model)
    }


def state(patient: Patient) -> object:
    modules = dict(patient.model.named_modules(remove_duplicate=False))
    return (
        bits(patient.model),
        {path: (id(m), type(m), m.training, sorted(m.__dict__)) for path, m in modules.items()},
        vars(patient.config).copy(),
        vars(patient.config.text).copy() if hasattr(patient.config, "text") else None,
        patient.tokenizer,
    )


def fresh(*shape: int) -> NewTensor:
    return NewTensor(shape, "float32", Init(lambda t, g: t.normal_(generator=g)))


def first_rows(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.cat([weight, weight[:2]])


EVERYTHING = [
    Extend("body.0", "scale_a", lambda: Scale, 2.0, {"scale_a": fresh(3)}),
    Extend("body.0", "scale_b", lambda: Scale, 3.0, {"scale_b": fresh(2)}),
    SetTrainable("body.2.weight", False),
    HoldEval("body"),
    Rewrite(
        "embed.weight",
        (9, 4),
        "float32",
        Derive(("embed.weight",), first_rows),
        {"embed.num_embeddings": 9, "head.out_features": 9},
    ),
    Place("body.1", nn.Linear(4, 4, device="meta"), {"weight": Keep("body.2.weight"),
                                                      "bias": Init(lambda t, g: t.zero_())}),
    Remove("body.2"),
    SetConfig("vocab", 9),
    SetConfig("text.size", 5),
    ChangeTokenizer("another", lambda old: old + "+"),
]  # fmt: skip


def test_rollback_gives_back_every_bit_object_class_and_flag(patient: Patient) -> None:
    before = state(patient)
    transaction = Transaction(patient)
    transaction.place(EVERYTHING, 0)
    fill(transaction.slots, seed=0)
    assert state(patient) != before
    transaction.rollback()
    assert state(patient) == before


def test_rollback_in_the_middle_gives_back_every_bit(patient: Patient) -> None:
    before = state(patient)
    for stop in range(len(EVERYTHING)):
        transaction = Transaction(patient)
        transaction.place(EVERYTHING[:stop], 0)
        transaction.rollback()
        assert state(patient) == before, f"after {stop} edits"


def test_ties_hold_through_a_rewrite(patient: Patient) -> None:
    old = patient.model.embed.weight.detach().clone()
    transaction = Transaction(patient)
    transaction.place([EVERYTHING[4]], 0)
    fill(transaction.slots, seed=0)
    assert patient.model.head.weight is patient.model.embed.weight
    assert torch.equal(patient.model.embed.weight, torch.cat([old, old[:2]]))
    assert (patient.model.embed.num_embeddings, patient.model.head.out_features) == (9, 9)
    rows = {row.name: row.aliases for row in table_of(named_tensors(patient.model))}
    assert rows["embed.weight"] == ("head.weight",)


def test_an_extension_keeps_the_object_its_names_and_its_other_paths(patient: Patient) -> None:
    linear = patient.model.body[0]
    names = set(patient.model.state_dict())
    transaction = Transaction(patient)
    transaction.place(EVERYTHING[:2], 0)
    fill(transaction.slots, seed=0)
    assert patient.model.body[0] is linear is patient.model.again
    assert isinstance(linear, nn.Linear)
    assert names < set(patient.model.state_dict())
    x = torch.randn(2, 4)
    scaled = (x * 2 + linear.scale_a.sum()) * 3 + linear.scale_b.sum()
    plain = nn.functional.linear(scaled, linear.weight, linear.bias)
    assert torch.equal(linear(x), plain)


def test_an_extended_model_can_be_copied(patient: Patient) -> None:
    transaction = Transaction(patient)
    transaction.place(EVERYTHING[:2], 0)
    fill(transaction.slots, seed=0)
    twin = copy.deepcopy(patient.model)
    ids = torch.tensor([[1, 2]])
    assert torch.equal(twin(ids), patient.model(ids))
    assert twin.body[0].scale_a is not patient.model.body[0].scale_a


def test_values_depend_on_seed_and_name_alone(patient: Patient) -> None:
    def value(edits: list[Extend], seed: int) -> list[float]:
        transaction = Transaction(patient)
        transaction.place(edits, 0)
        fill(transaction.slots, seed=seed)
        found = patient.model.body[2].scale_a.tolist()
        transaction.rollback()
        return found

    one = Extend("body.2", "scale_a", lambda: Scale, 1.0, {"scale_a": fresh(3)})
    assert value([one], 1) == value([EVERYTHING[0], one], 1) != value([one], 2)


def test_held_modules_stay_in_eval_mode_and_come_back(patient: Patient) -> None:
    patient.model.train()
    transaction = Transaction(patient)
    transaction.place([HoldEval("body")], 0)
    assert not any(m.training for m in patient.model.body.modules())
    patient.model.train()
    assert not any(m.training for m in patient.model.body.modules())
    assert patient.model.head.training
    transaction.rollback()
    patient.model.train()
    assert patient.model.body[1].training


def test_an_effective_tensor_is_seen_by_all_readers_and_by_no_state_dict(patient: Patient) -> None:
    class Double:
        leaf = "weight"

        def effective(self, module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
            return weight * 2

    linear, x = patient.model.body[2], torch.randn(2, 4)
    want = nn.functional.linear(x, linear.weight * 2, linear.bias)
    transaction = Transaction(patient)
    transaction.place([Extend("body.2", "double", lambda: effective("weight"), Double())], 0)
    base = linear._parameters["weight"]
    assert torch.equal(linear(x), want)
    assert torch.equal(linear.state_dict()["weight"], base)
    assert dict(linear.named_parameters())["weight"] is base
    transaction.rollback()
    assert linear.weight is base


def test_shared_tensors_stay_one(patient: Patient) -> None:
    transaction = Transaction(patient)
    transaction.place(
        [
            Extend("body.0", "a", lambda: Scale, 1.0, {"scale_a": fresh(3)}),
            Extend("body.2", "a", lambda: Scale, 1.0, shares={"scale_a": "body.0.scale_a"}),
        ],
        0,
    )
    fill(transaction.slots, seed=0)
    assert patient.model.body[0].scale_a is patient.model.body[2].scale_a
    names = {name for name, _ in base_parameters(patient.model)}
    assert not any("scale" in name for name in names)


@pytest.mark.parametrize(
    ("edits", "error"),
    [
        ([Extend("body.9", "x", lambda: Scale)], SurgeryError),
        ([EVERYTHING[0], EVERYTHING[0]], ConflictError),
        ([Extend("body.0", "x", lambda: Scale, 1.0, {"weight": fresh(1)})], ConflictError),
        ([SetTrainable("body.0.wieght", False)], SurgeryError),
        ([SetConfig("vision.size", 1)], SurgeryError),
        ([Place("body.1", nn.Linear(4, 4, device="meta"), {})], SurgeryError),
    ],
)
def test_edits_that_name_nothing_are_errors(
    patient: Patient, edits: list[Extend], error: type[SurgeryError]
) -> None:
    transaction = Transaction(patient)
    with pytest.raises(error):
        transaction.place(edits, 0)


def test_a_surgery_that_computes_another_shape_than_planned_is_an_error(patient: Patient) -> None:
    transaction = Transaction(patient)
    transaction.place(
        [Rewrite("scale", (5,), "float32", Derive(("scale",), lambda t, generator: t))], 0
    )
    with pytest.raises(SurgeryError, match=r"scale: expected the planned shape \(5,\), got \(4,\)"):
        fill(transaction.slots, seed=0)
