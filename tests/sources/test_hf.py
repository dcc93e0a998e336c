from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from surgery.anatomy.walk import walk
from surgery.errors import PatientError
from surgery_plugins.sources.hf import HfSource
from tests.sources.conftest import CONFIG, INLINE

Edit = Callable[..., None]


def facts(model: torch.nn.Module) -> dict[str, tuple[Any, ...]]:
    return {n: (tuple(t.shape), t.dtype) for n, t in model.state_dict().items()}


def test_the_structure_is_built_on_meta_and_is_the_one_that_is_loaded(base: Path) -> None:
    source = HfSource(path=str(base))
    built, loaded = source.build(), source.load()
    assert {t.device.type for t in built.model.state_dict().values()} == {"meta"}
    assert facts(built.model) == facts(loaded.model)
    assert type(built.model) is type(loaded.model) is LlamaForCausalLM
    assert not built.model.training
    assert not loaded.model.training
    assert built.config.hidden_size == 16


def test_the_structure_needs_no_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()
    assert HfSource(path=str(base)).build().model


def test_every_weight_is_the_stored_one(base: Path) -> None:
    stored = load_file(base / "model.safetensors")
    found = HfSource(path=str(base)).load().model.state_dict()
    assert stored.keys() <= found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in stored.items())


@pytest.mark.parametrize("written", ["bfloat16", None])
@pytest.mark.parametrize("given", [None, "float32", "bfloat16", "float16"])
def test_structure_and_weights_have_one_dtype(
    base: Path, edit: Edit, written: str | None, given: Any
) -> None:
    LlamaForCausalLM(LlamaConfig(**CONFIG)).to(torch.bfloat16).save_pretrained(base)
    edit(dtype=written)
    source = HfSource(path=str(base), dtype=given)
    loaded = facts(source.load().model)
    assert facts(source.build().model) == loaded
    assert loaded["lm_head.weight"][1] == getattr(torch, given or "bfloat16")


def test_what_transformers_keeps_in_float32_is_so_in_the_structure_too(tmp_path: Path) -> None:
    config = T5Config(vocab_size=32, d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    source = HfSource(path=str(tmp_path), dtype="float16")
    built = facts(source.build().model)
    assert built == facts(source.load().model)
    assert {dtype for _, dtype in built.values()} == {torch.float16, torch.float32}


def test_a_model_of_two_towers_is_built_as_it_is_loaded(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    text = {**small, "num_hidden_layers": 2, "vocab_size": 32, "max_position_embeddings": 16}
    image = {**small, "num_hidden_layers": 3, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=image)).save_pretrained(tmp_path)
    source = HfSource(path=str(tmp_path))
    built = source.build()
    assert facts(built.model) == facts(source.load().model)
    assert {t.device.type for t in built.model.parameters()} == {"meta"}
    found = walk(built.model).select(role="attention.q", layers="-1", expect=2)
    assert {site.layer.number for site in found if site.layer} == {1, 2}


def test_a_folder_that_is_not_there_may_be_a_hub_id_and_the_error_says_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(name: str, **options: Any) -> str:
        raise ConnectionError(f"no way to {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(PatientError) as caught:
        HfSource(path="models/no-such").build()
    assert caught.value.wanted == "a local folder, or the id of a model of the hub"
    assert "no way to models/no-such" in caught.value.found


def test_random_weights_follow_the_seed_and_touch_no_generator() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (HfSource(from_config=INLINE, seed=s).load().model for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])
    assert facts(HfSource(from_config=INLINE).build().model) == facts(one)


@pytest.mark.parametrize("form", ["folder", "file", "other name"])
def test_a_configuration_may_be_a_folder_or_a_file(base: Path, form: str) -> None:
    (base / "tiny.json").write_text((base / "config.json").read_text())
    place = {"folder": base, "file": base / "config.json", "other name": base / "tiny.json"}[form]
    source = HfSource(from_config=str(place))
    assert source.weights() == source.companions() == {}
    assert facts(source.build().model)["lm_head.weight"][0] == (64, 16)


def test_an_architecture_may_be_named(base: Path, edit: Edit) -> None:
    edit(architectures=None)
    with pytest.raises(PatientError, match="write `architecture:`"):
        HfSource(path=str(base)).build()
    named = HfSource(path=str(base), architecture="LlamaForCausalLM")
    assert isinstance(named.build().model, LlamaForCausalLM)


def test_tokenizer_and_companions_travel(base: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(base)
    (base / "notes.txt").write_text("mine")
    source = HfSource(path=str(base))
    assert source.build().tokenizer("a")["input_ids"] == [0]
    names = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names <= source.companions().keys()
    assert not {"notes.txt", "model.safetensors"} & source.companions().keys()
    assert all(path.is_file() for path in source.companions().values())
    assert source.weights() == {"model.safetensors": base / "model.safetensors"}


def test_shards_are_found_and_read(base: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="8KB")
    source = HfSource(path=str(base))
    assert len(source.weights()) > 1
    found = source.load().model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())


def test_tensors_are_stored_as_transformers_stores_them(tmp_path: Path) -> None:
    source = HfSource(from_config=INLINE)
    model: Any = source.load().model
    stored = source.store_as(model, source.naming(model, ()), dict(model.state_dict()))
    save_file({n: t.clone() for n, t in stored.items()}, tmp_path / "model.safetensors")
    model.config.save_pretrained(tmp_path)
    again = source.moved(str(tmp_path))
    HfSource.model_validate(again.model_dump())
    found = again.load().model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())


def test_transformers_prints_nothing(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = HfSource(path=str(base))
    capfd.readouterr()
    source.build()
    source.load()
    assert capfd.readouterr() == ("", "")


def rewrite(base: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not in the model"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(4)}),
            r"model.norm.weight has shape \[4\] and not \[16\]",
        ),
    ],
)
def test_a_weight_that_does_not_land_is_named(
    base: Path, change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    rewrite(base, change)
    with pytest.raises(PatientError, match=words):
        HfSource(path=str(base)).load()


def test_names_that_may_differ_are_listed_and_missing_ones_follow_the_seed(base: Path) -> None:
    rewrite(base, lambda t: (t.pop("lm_head.weight"), t.update(extra=torch.zeros(1))))
    source = HfSource(path=str(base), may_differ=["lm_head.weight", "extra"], seed=3)
    one, same = source.load().model, source.load().model
    assert torch.equal(one.state_dict()["lm_head.weight"], same.state_dict()["lm_head.weight"])
    with pytest.raises(PatientError, match=r"lm_head\.weight is missing"):
        HfSource(path=str(base), may_differ=["extra"]).load()


def test_buffers_of_older_versions_do_not_matter(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    extra = {"embeddings.position_ids": torch.arange(8)[None]}
    rewrite(tmp_path, lambda t: t.update(extra))
    assert HfSource(path=str(tmp_path)).load().model


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": None}, "model_type"),
        ({"model_type": 5}, "model_type"),
        ({"architectures": ["LlamaForCasualLM"]}, "did you mean 'LlamaForCausalLM'"),
        ({"architectures": 5}, "the name of a model class"),
        ({"architectures": "LlamaModel"}, "the name of a model class"),
        ({"hidden_size": "x"}, "hidden_size"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "c.C"}}, "trust_remote_code: true"),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(
    base: Path, edit: Edit, keys: dict[str, Any], words: str
) -> None:
    edit(**keys)
    with pytest.raises(PatientError) as caught:
        HfSource(path=str(base)).build()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "\udcff", "[" * 100_000])
def test_a_config_that_is_no_object_is_an_error(base: Path, content: str) -> None:
    (base / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(PatientError, match="a JSON object"):
        HfSource(path=str(base)).build()


def test_a_slip_in_an_inline_configuration_is_an_error() -> None:
    with pytest.raises(PatientError, match="did you mean 'hidden_size'"):
        HfSource(from_config={**INLINE, "hiden_size": 8}).build()
    assert HfSource(from_config={**INLINE, "rope_theta": 5.0, "my_own": 1}).build().model


def test_one_base_and_only_one(base: Path) -> None:
    for keys in ({}, {"path": "a", "from_config": INLINE}, {"path": "a", "pth": "b"}):
        with pytest.raises(ValidationError):
            HfSource.model_validate(keys)
    with pytest.raises(PatientError, match="revision"):
        HfSource(path=str(base), revision="main").build()


def test_a_damaged_tokenizer_is_an_error(base: Path) -> None:
    (base / "tokenizer.json").write_text("{")
    with pytest.raises(PatientError):
        HfSource(path=str(base)).build()


def test_a_processor_that_cannot_be_made_is_a_note(base: Path) -> None:
    (base / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "None"}))
    patient = HfSource(path=str(base)).build()
    assert patient.processor is None
    assert patient.notes[0].startswith("no processor: ")
