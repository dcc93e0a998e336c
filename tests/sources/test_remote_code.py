from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import PatientError
from surgery.operate.trust import CONSENT
from surgery_plugins.sources.hf import HfSource
from tests.sources.conftest import CONFIG, INLINE

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).write_text("ran")

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(base: Path, edit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that brings its own code, which leaves a mark where it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    (base / "own.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    edit(
        model_type="own_llama", architectures=["OwnModel"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )  # fmt: skip
    return base


@pytest.fixture
def consent() -> Iterator[None]:
    token = CONSENT.set(True)
    yield
    CONSENT.reset(token)


def test_code_runs_only_with_the_recipe_and_the_command_line(own: Path, tmp_path: Path) -> None:
    with pytest.raises(PatientError, match="trust_remote_code: true"):
        HfSource(path=str(own)).build()
    with pytest.raises(PatientError, match="--trust-remote-code"):
        HfSource(path=str(own), trust_remote_code=True).build()
    assert not (tmp_path / "mark").exists()


@pytest.mark.usefixtures("consent")
def test_consent_alone_runs_nothing(own: Path, tmp_path: Path) -> None:
    with pytest.raises(PatientError, match="trust_remote_code: true"):
        HfSource(path=str(own)).build()
    assert not (tmp_path / "mark").exists()


@pytest.mark.usefixtures("consent")
def test_with_both_the_models_own_class_is_built_and_loaded(own: Path, tmp_path: Path) -> None:
    source = HfSource(path=str(own), trust_remote_code=True)
    assert type(source.build().model).__name__ == "OwnModel"
    assert type(source.load().model).__name__ == "OwnModel"
    assert (tmp_path / "mark").read_text() == "ran"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_a_tokenizer_or_processor_runs_only_where_it_is_trusted(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    (base / "own.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    (base / "vocab.txt").write_text("a\nb\n")
    auto = '{"AutoTokenizer": ["own.T", null], "AutoProcessor": "own.P"}'
    (base / name).write_text(f'{{"auto_map": {auto}, "tokenizer_class": "T"}}')
    token = CONSENT.set(trusted)
    with suppress(PatientError):
        HfSource(path=str(base), trust_remote_code=trusted).build()
    CONSENT.reset(token)
    assert (tmp_path / "mark").exists() is trusted


def test_inline_configurations_have_no_code() -> None:
    assert HfSource(from_config={**INLINE, **CONFIG}).build().model
