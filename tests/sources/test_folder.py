"""Laws of the folder that transformers is given: it reads the checked files and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from surgery.errors import IntegrityError, PatientError, SurgeryError
from surgery_plugins.sources.hf import HfSource

ACTS: list[Callable[[HfSource], object]] = [HfSource.build, HfSource.load]


@pytest.mark.parametrize("act", ACTS)
def test_a_damaged_header_is_found_before_transformers_reads(
    base: Path, act: Callable[[HfSource], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def never(*given: Any, **options: Any) -> None:
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", never)
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        act(HfSource(path=str(base)))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "none.safetensors"])
def test_an_index_that_leads_elsewhere_is_found(
    base: Path, act: Callable[[HfSource], object], name: str
) -> None:
    (base / "model.safetensors").rename(base.parent / "secret.safetensors")
    listed = {"weight_map": {"model.norm.weight": name}}
    (base / "model.safetensors.index.json").write_text(json.dumps(listed))
    with pytest.raises(IntegrityError):
        act(HfSource(path=str(base)))


@pytest.mark.parametrize("act", [*ACTS, HfSource.companions])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_companion_that_is_a_link_out_of_the_folder_is_refused(
    base: Path, act: Callable[[HfSource], object], name: str
) -> None:
    secret = base.parent / "secret"
    if (base / name).exists():
        (base / name).rename(secret)
    else:
        secret.write_text("{}")
    (base / name).symlink_to(secret)
    with pytest.raises(IntegrityError, match="a link to"):
        act(HfSource(path=str(base)))


@pytest.mark.parametrize("act", ACTS)
def test_a_configuration_does_not_name_other_weights(
    base: Path, edit: Callable[..., None], act: Callable[[HfSource], object]
) -> None:
    edit(transformers_weights="other.safetensors")
    save_file({"x": torch.ones(1)}, base / "other.safetensors")
    with pytest.raises(IntegrityError, match="transformers_weights"):
        act(HfSource(path=str(base)))
    edit(transformers_weights="model.safetensors")
    act(HfSource(path=str(base)))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    "name", ["adapter_config.json", "shard-00000-model-00001-of-00002.safetensors"]
)
def test_weights_that_transformers_would_take_instead_are_refused(
    base: Path, act: Callable[[HfSource], object], name: str
) -> None:
    (base / name).write_text("{}")
    with pytest.raises(PatientError, match="usual files"):
        act(HfSource(path=str(base)))


def test_a_folder_without_weights_can_be_planned_on(base: Path) -> None:
    (base / "model.safetensors").unlink()
    assert HfSource(path=str(base)).build().model is not None
    with pytest.raises(SurgeryError):
        HfSource(path=str(base)).load()
