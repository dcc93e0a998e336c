"""EVA begins with the principal components of what each weight sees."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.incremental_pca import IncrementalPCA
from safetensors.torch import save_file
from torch import nn

import surgery
from surgery.errors import PatientError, RefusedError
from surgery.hooks.registry import registry
from surgery.operate.edits import Init
from surgery.operate.initialiser import Begin, Factors, Initialiser
from surgery_plugins.surgeries.lora import Lora
from surgery_plugins.surgeries.lora.initialisers.eva import Components, Folding
from tests.lora.kit import adapters, place, site

STEP: dict[str, Any] = {"use": "lora", "at": {"path": ["first", "second"]}}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 12)
        self.first, self.second = nn.Linear(12, 10), nn.Linear(10, 4)

    def forward(self, ids: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
        return self.second(self.first(self.table(ids)).relu())


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    ids = torch.randint(0, 40, (20, 7), generator=torch.Generator().manual_seed(5))
    save_file({"ids": ids}, tmp_path / "samples.safetensors")
    return tmp_path / "samples.safetensors"


def step(data: Path, **options: Any) -> dict[str, Any]:
    return {**STEP, "with": {"rank": 3, "init": {"use": "eva", "data": str(data), **options}}}


def components(inputs: torch.Tensor, count: int) -> torch.Tensor:
    centred = inputs.reshape(-1, inputs.shape[-1]).double()
    return torch.linalg.svd(centred - centred.mean(0), full_matrices=False)[2][:count].float()


def same_up_to_sign(ours: torch.Tensor, other: torch.Tensor, atol: float) -> None:
    signs = (ours * other).sum(1, keepdim=True).sign()
    torch.testing.assert_close(ours, signs * other, rtol=0, atol=atol)


def test_each_adapter_begins_with_the_components_of_its_own_inputs(samples: Path) -> None:
    from safetensors.torch import load_file

    model = net()
    ids = load_file(samples)["ids"]
    x = model.table(ids).detach()
    want = {"first": components(x, 3), "second": components(model.first(x).relu().detach(), 3)}
    out = model(ids)
    surgery.apply(model, [step(samples, batch=20)])
    for name, rows in want.items():
        same_up_to_sign(model.get_submodule(name).lora_default_A, rows, 1e-5)
    assert torch.equal(model(ids), out)
    assert not model.first.lora_default_B.any()
    assert not model.first._forward_pre_hooks


def test_masked_places_are_left_out(samples: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    ids = load_file(samples)["ids"]
    mask = torch.ones_like(ids)
    mask[:, 5:] = 0
    save_file({"ids": ids, "attention_mask": mask}, tmp_path / "masked.safetensors")
    save_file({"ids": ids[:, :5].contiguous()}, tmp_path / "short.safetensors")
    found = []
    for name in ("masked", "short"):
        model = net()
        surgery.apply(model, [step(tmp_path / f"{name}.safetensors")])
        found.append(model.first.lora_default_A.detach())
    torch.testing.assert_close(*found)


def test_planning_reads_neither_weights_nor_samples(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = Net()
    plan = surgery.plan(model, [step(tmp_path / "nowhere.safetensors")])
    assert len(plan.added) == 4
    values = [plan.slots[row.name].value for row in plan.added]
    assert [value.live for value in values if isinstance(value, Init)] == [True, False] * 2


def test_a_saved_result_needs_no_samples_to_load(samples: Path, tmp_path: Path) -> None:
    model = net()
    base = copy.deepcopy(model)
    surgery.apply(model, [step(samples)]).save(tmp_path / "out")
    samples.unlink()
    loaded = surgery.load(tmp_path / "out", base)
    assert torch.equal(loaded.model.first.lora_default_A, model.first.lora_default_A)


def test_a_copy_of_the_result_does_not_hold_the_patient(samples: Path) -> None:
    model = net()
    surgery.apply(model, [step(samples)])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.table.weight.zero_()
    assert model.table.weight.any()
    assert torch.equal(twin.first.lora_default_A, model.first.lora_default_A)


def test_earlier_adapters_are_left_as_they_are(samples: Path) -> None:
    model = net()
    surgery.apply(model, [{**STEP, "with": {"rank": 2, "adapter": "other"}}])
    alone = net()
    surgery.apply(alone, [step(samples)])
    surgery.apply(model, [step(samples)])
    assert torch.equal(model.first.lora_default_A, alone.first.lora_default_A)
    active = [e.settings.active for e in model.first._surgery_extensions.values()]
    assert active == [True, True]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(6, 12), min_size=1, max_size=4), inner=st.integers(5, 9),
    count=st.integers(1, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_folding_is_the_incremental_decomposition_of_peft(
    sizes: list[int], inner: int, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    theirs, state = IncrementalPCA(n_components=count), None
    for size in sizes:
        batch = torch.randn(size, inner, generator=generator) * torch.arange(1.0, inner + 1) + 3
        theirs.partial_fit(batch)
        state = Folding(count)(state, batch)
    assert isinstance(state, Components)
    torch.testing.assert_close(state.values, theirs.singular_values_.float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(state.mean, theirs.mean_.float(), rtol=1e-4, atol=1e-4)
    product = (state.directions * theirs.components_.float()).sum(1)
    torch.testing.assert_close(product, torch.ones(count), rtol=0, atol=1e-2)


def test_batches_together_give_what_one_gives_where_all_components_are_kept() -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(1)) + 2
    state = None
    for batch in (x[:3], x[3:4], x[4:]):
        state = Folding(6)(state, batch)
    assert state is not None
    assert state.seen == 30
    same_up_to_sign(state.directions, components(x, 6), 1e-3)


def test_whitened_components_are_divided_by_the_root_of_their_value(samples: Path) -> None:
    plain, white = net(), net()
    surgery.apply(plain, [step(samples)])
    surgery.apply(white, [step(samples, whiten=True)])
    ratio = plain.first.lora_default_A / white.first.lora_default_A
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=0)
    assert (ratio[:, 0].diff() < 0).all()


def test_wrong_samples_are_errors_and_the_model_stays(tmp_path: Path) -> None:
    wrong = {
        "none": {}, "names": {"inputs": torch.zeros(2, 3)},
        "lengths": {"ids": torch.zeros(2, 3).long(), "attention_mask": torch.ones(3, 3)},
        "few": {"ids": torch.ones(1, 1).long()},
    }  # fmt: skip
    for name, tensors in wrong.items():
        file = tmp_path / f"{name}.safetensors"
        if tensors:
            save_file(tensors, file)
        model = net()
        with pytest.raises((PatientError, RefusedError)):
            surgery.apply(model, [step(file)])
        assert set(dict(model.named_parameters())) == set(dict(net().named_parameters()))


def test_what_has_no_observable_inputs_is_refused() -> None:
    lora = Lora(rank=2, init={"use": "eva", "data": "x"})
    model = nn.Sequential(nn.Embedding(9, 6), nn.Conv2d(2, 3, 1), nn.Linear(6, 6))
    for path in ("0", "1"):
        assert "cannot be observed" in str(lora.refuse(site(model, path)))
    assert "no 7 components" in str(
        Lora(rank=7, init={"use": "eva", "data": "x"}).refuse(site(model, "2"))
    )
    attention = nn.MultiheadAttention(6, 2)
    with pytest.raises(RefusedError, match="called with its inputs"):
        place(attention, [site(attention, "out_proj")], lora)


class Largest(Initialiser):
    """A stranger's initialiser: A marks the inputs that were largest."""

    name: ClassVar[str] = "acme/largest"
    data: str

    def begin(self, factors: Factors) -> Begin:
        state = factors.observe(
            self.data, 4, lambda old, x: x.abs().sum(0) + (0 if old is None else old)
        )

        def fill(tensor: torch.Tensor, generator: torch.Generator) -> None:
            tensor.zero_()
            tensor[torch.arange(factors.each), state().topk(factors.each).indices] = 1.0

        return Begin(Init(fill, live=True), Init(lambda tensor, generator: tensor.zero_()))


def test_a_stranger_offers_an_initialiser_that_sees_the_inputs(
    samples: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "acme.py"
    plugin.write_text(
        "from surgery.hooks.specs import hookimpl\n"
        "from tests.lora.test_eva import Largest\n"
        "@hookimpl\ndef surgery_initialisers():\n    return [Largest]\n"
    )
    known = registry([plugin])
    model = net()
    base = copy.deepcopy(model)
    init = {"use": "acme/largest", "data": str(samples)}
    entry = {**STEP, "with": {"rank": 3, "init": init}}
    with pytest.raises(surgery.SurgeryError, match="acme/largest"):
        surgery.apply(model, [entry])
    applied = surgery.apply(model, [entry], plugins=known)
    assert (model.first.lora_default_A.sum(1) == 1).all()
    assert len(adapters(model)) == 4
    applied.save(tmp_path / "out")
    loaded = surgery.load(tmp_path / "out", base, plugins=known)
    assert torch.equal(loaded.model.first.lora_default_A, model.first.lora_default_A)


def test_an_initialiser_that_is_none_is_a_fault_of_its_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from surgery.hooks.specs import hookimpl\n"
        "@hookimpl\ndef surgery_initialisers():\n    return [int]\n"
    )
    with pytest.raises(surgery.SurgeryError, match="initialiser"):
        registry([plugin])
