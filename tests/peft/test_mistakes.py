"""What PEFT loads without a word although it does nothing, or something else, is an error here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from surgery.errors import PatientError, Problems, RefusedError, SurgeryError
from surgery_plugins.peft.read import load_peft
from tests.peft import kit
from tests.peft.kit import answer, fresh, saved_by_peft
from tests.peft.test_formats import FILE, configure, rewrite

pytestmark = pytest.mark.filterwarnings("ignore")

Q: dict[str, Any] = {"target_modules": ["q_proj"]}


def refused(model: nn.Module, folder: Path, match: str, kind: type[SurgeryError]) -> None:
    """Load, expect an error, and demand that the model is exactly as before."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(kind, match=match):
        load_peft(model, folder)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def drop(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        kept = {k: t for k, t in load_file(folder / FILE).items() if part not in k}
        save_file(kept, folder / FILE)

    return change


def edit(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        held = load_file(folder / FILE)
        new = {k: change(t).contiguous() if part in k else t for k, t in held.items()}
        save_file(new, folder / FILE)

    return apply


def config(**change: Any) -> Callable[[Path], None]:
    return lambda folder: configure(folder, **change)


def add(name: str, *shape: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        save_file({**load_file(folder / FILE), name: torch.zeros(shape)}, folder / FILE)

    return change


LAYER = "model.layers.0.self_attn"
SILENT: dict[str, tuple[dict[str, Any], Callable[[Path], None], str]] = {
    "names that match nothing": (
        Q,
        lambda folder: rewrite(folder, lambda k: k.replace("layers", "blocks")),
        "a module of the model",
    ),
    "a layer without tensors": (Q, drop("layers.1."), "is the file whole"),
    "A without B": (Q, drop("layers.1.self_attn.q_proj.lora_B"), "A and B of"),
    "no magnitudes": ({**Q, "use_dora": True}, drop("magnitude"), "A and B and M"),
    "magnitudes without DoRA": ({**Q, "use_dora": True}, config(use_dora=False), "A and B of"),
    "an empty file": (Q, drop(""), "is the file whole"),
    "tensors of a module that is not selected": (
        Q,
        config(target_modules=["v_proj"]),
        "leave it out without a word",
    ),
    "fewer layers selected": (Q, config(layers_to_transform=[0]), "leave it out"),
    "another rank": (Q, config(r=4), "rank 4, as adapter_config.json says"),
    "another rank by pattern": (Q, config(rank_pattern={"q_proj": 2}), "rank 2, as"),
    "a B of another width": (
        Q,
        edit("lora_B", lambda t: torch.cat([t, t])),
        r"shape \(16, 3\).*\(32, 3\)",
    ),
    "a saved module without tensors": (
        {**Q, "modules_to_save": ["lm_head"]},
        drop("lm_head"),
        "lm_head.weight, which adapter_config.json says is trained",
    ),
    "a saved module of another size": (
        {**Q, "modules_to_save": ["lm_head"]},
        edit("lm_head", lambda t: t[:-1]),
        r"shape \(32, 16\)",
    ),
    "tensors that the base has, with other values": (
        Q,
        add("base_model.model.model.norm.weight", 16),
        "the base's own model.norm.weight",
    ),
    "tensors of nothing": (Q, add("base_model.model.extra.weight", 3), "none of the name extra"),
    "rows without tensors": (
        {**Q, "trainable_token_indices": [3, 9]},
        drop("token_adapter"),
        "the rows of model.embed_tokens",
    ),
    "more rows than tensors": (
        {**Q, "trainable_token_indices": [3, 9]},
        config(trainable_token_indices=[3, 9, 10]),
        r"shape \(3, 16\)",
    ),
    "rows beyond the vocabulary": (
        {**Q, "trainable_token_indices": [3, 9]},
        config(trainable_token_indices=[3, 99]),
        "different rows below 32",
    ),
    "one row twice": (
        {**Q, "trainable_token_indices": [3, 9]},
        config(trainable_token_indices=[3, 3]),
        "different rows",
    ),
    "rows that nobody names": (
        {**Q, "trainable_token_indices": [3, 9]},
        config(trainable_token_indices=None),
        "rows that adapter_config.json names",
    ),
    "values that are not numbers": (
        Q,
        edit("lora_A", lambda t: t * float("nan")),
        "NaN or infinity",
    ),
    "saved values that are not numbers": (
        {**Q, "modules_to_save": ["lm_head"]},
        edit("lm_head", lambda t: t * float("inf")),
        "NaN or infinity",
    ),
    "two adapters in one file": (
        Q,
        add(f"base_model.model.{LAYER}.q_proj.lora_A.other.weight", 3, 16),
        "a second one beside",
    ),
}


@pytest.mark.parametrize(("options", "change", "match"), SILENT.values(), ids=SILENT)
def test_a_silent_mistake_is_an_error_and_changes_nothing(
    options: dict[str, Any], change: Callable[[Path], None], match: str, tmp_path: Path
) -> None:
    base, _ = saved_by_peft(kit.llama, tmp_path, **options)
    change(tmp_path)
    refused(base, tmp_path, match, SurgeryError)


def test_biases_that_an_old_version_forgot_to_save_are_missed(tmp_path: Path) -> None:
    base, _ = saved_by_peft(kit.biased, tmp_path, **Q, bias="lora_only")
    drop(".bias")(tmp_path)
    refused(base, tmp_path, "q_proj.bias, which", Problems)


def test_another_architecture_is_no_base(tmp_path: Path) -> None:
    saved_by_peft(kit.llama, tmp_path, **Q)
    refused(fresh(kit.gpt2), tmp_path, "a module of the model", Problems)


def test_a_wider_model_is_no_base(tmp_path: Path) -> None:
    saved_by_peft(kit.llama, tmp_path, **Q)
    refused(
        fresh(lambda: kit.llama(hidden_size=32)), tmp_path, "is this the adapter's base", Problems
    )


def test_a_deeper_model_is_no_base(tmp_path: Path) -> None:
    saved_by_peft(kit.llama, tmp_path, **Q)
    refused(fresh(lambda: kit.llama(num_hidden_layers=3)), tmp_path, "layers.2", Problems)


def test_a_base_whose_saved_embedding_differs_is_another(tmp_path: Path) -> None:
    base, _ = saved_by_peft(kit.llama, tmp_path, target_modules=["embed_tokens"])
    with torch.no_grad():
        base.model.embed_tokens.weight += 1  # type: ignore[union-attr, operator]
    refused(base, tmp_path, "other values", Problems)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "layers repeated": (config(layer_replication=[[0, 1], [0, 2]]), "repeats layers"),
    "a bias in B": (config(lora_bias=True), "adds biases to B"),
    "some tokens alone": (config(alora_invocation_tokens=[1]), "some tokens alone"),
    "a base that was changed": (config(init_lora_weights="pissa"), "changed the base"),
    "a base that was rounded": (config(init_lora_weights="loftq"), "changed the base"),
    "biases of an unknown kind": (config(bias="some"), "bias some"),
    "a bias among the tensors": (
        add(f"base_model.model.{LAYER}.q_proj.lora_B.bias", 16),
        "a tensor that LoRA has",
    ),
}


@pytest.mark.parametrize(("change", "match"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_exact_equivalent_is_refused_with_the_reason(
    change: Callable[[Path], None], match: str, tmp_path: Path
) -> None:
    base, _ = saved_by_peft(kit.llama, tmp_path, **Q)
    change(tmp_path)
    refused(base, tmp_path, match, RefusedError)


@pytest.mark.parametrize("name", ["IA3", "LOHA", None])
def test_another_method_is_no_lora(name: str | None, tmp_path: Path) -> None:
    base, _ = saved_by_peft(kit.llama, tmp_path, **Q)
    configure(tmp_path, peft_type=name)
    refused(base, tmp_path, "a LoRA adapter", PatientError)


def test_a_folder_without_an_adapter_is_none(tmp_path: Path) -> None:
    refused(fresh(kit.llama), tmp_path, "the configuration of an adapter", PatientError)


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (kit.grouped, {"target_modules": ["a"], "r": 4}, "channels of all 2 groups"),
        (lambda: kit.Stack(2, padding_mode="circular"), {"target_modules": ["a"]}, "with zeros"),
        (kit.Attention, {"target_modules": ["attn"]}, "adds twice"),
    ],
)
def test_what_peft_computes_in_its_own_way_is_refused(
    make: kit.Make, options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    base, _ = saved_by_peft(make, tmp_path, **options)
    with pytest.raises(RefusedError, match=match):
        load_peft(base, tmp_path, inputs=kit.inputs_of(base))


def test_rows_of_a_head_with_a_bias_are_refused_since_peft_drops_the_bias(tmp_path: Path) -> None:
    base, _ = saved_by_peft(
        kit.bert, tmp_path, target_modules=["query"], trainable_token_indices={"classifier": [1]}
    )
    refused(base, tmp_path, "leaves the bias out", RefusedError)


def test_all_wrong_tensors_are_named_at_once(tmp_path: Path) -> None:
    base, _ = saved_by_peft(kit.llama, tmp_path, target_modules=["q_proj", "v_proj"])
    rewrite(tmp_path, lambda key: key.replace("layers", "blocks"))
    with pytest.raises(Problems) as caught:
        load_peft(base, tmp_path)
    assert len(caught.value.problems) == 8  # four pairs lost, four places empty


def test_adapters_that_are_off_are_the_base(tmp_path: Path) -> None:
    base, _ = saved_by_peft(kit.llama, tmp_path, **Q)
    plain = answer(base)
    load_peft(base, tmp_path).undo()
    assert torch.equal(answer(base), plain)
