"""What the tokenizer's doctor finds, on the ill, and not on the healthy."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import surgery
from surgery import Patient, SurgeryError
from surgery.checks.check import Check
from surgery_plugins.sources.demo import PACKAGE
from surgery_plugins.tokenizers.contexts import context_findings
from surgery_plugins.tokenizers.examine import examine
from surgery_plugins.tokenizers.samples import sample_findings
from surgery_plugins.tokenizers.template import literals
from tests.command import Ran
from tests.tokens import kit

SEG = AddedToken("[SEG]", special=True, normalized=False)


def sick(patient: Patient, **options: Any) -> dict[str, Check]:
    """Give the checks that did not pass, by the last words of their names."""
    found = {check.name.removeprefix("tokens: "): check for check in examine(patient, **options)}
    return {name: c for name, c in found.items() if c.status in ("failed", "warned")}


def well(family: str = "byte-level", **options: Any) -> Patient:
    patient = kit.patient(family, **options)
    patient.tokenizer.padding_side = "left"
    return patient


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_the_healthy_are_called_healthy(family: str) -> None:
    patient = well(family, rows=kit.tokenizer(family).vocab_size + 8)
    if family != "word-piece":
        patient.tokenizer.add_tokens([SEG])
    checks = list(examine(patient))
    assert not sick(patient)
    assert len(checks) == 12
    assert {c.name for c in checks if c.status == "skipped"} == {
        "tokens: chat template", "tokens: one tokenizer"
    }  # fmt: skip


def test_a_token_that_was_never_added_is_found() -> None:
    found = sick(well(), required=frozenset(["[SEG]"]))
    assert found["one id each"].detail.startswith("'[SEG]' is no token")
    assert found["one id each"].status == "failed"


def test_a_normalized_token_of_legacy_llama_is_lost_in_a_word() -> None:
    patient = well("legacy-llama", rows=600)
    patient.tokenizer.add_tokens([AddedToken("[SEG]", special=False, normalized=True)])
    found = sick(patient)
    assert "'[SEG]' glued to a word is not found" in found["one id each"].detail
    assert found["flags"].status == "warned"


def test_mistakes_of_others_are_only_warnings() -> None:
    patient = well("legacy-llama", rows=600)
    patient.tokenizer.add_tokens([AddedToken("<old>", special=False, normalized=True), SEG])
    found = sick(patient, required=frozenset(["[SEG]"]))
    assert "failed" not in {check.status for check in found.values()}


def test_split_special_tokens_are_found() -> None:
    patient = well(rows=384)
    patient.tokenizer.add_tokens([SEG])
    patient.tokenizer.split_special_tokens = True
    found = sick(patient)
    assert found["one id each"].status == found["flags"].status == "failed"


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_flags_that_mislead_are_listed(flag: str) -> None:
    patient = well(rows=384)
    patient.tokenizer.add_tokens([AddedToken("<x>", normalized=False, **{flag: True})])
    assert list(sick(patient)) == ["flags"]
    assert sick(patient)["flags"].status == "warned"


def test_a_table_that_is_too_small_is_found() -> None:
    patient = well()
    patient.tokenizer.add_tokens([SEG])
    assert "'[SEG]' has the id 340, the tables 340 rows" in sick(patient)["rows"].detail


def test_a_head_that_was_left_behind_is_found() -> None:
    patient = well(rows=384)
    model: Any = patient.model
    model.model.embed_tokens = torch.nn.Embedding(400, 16)
    assert "embed_tokens.weight 400, lm_head.weight 384" in sick(patient)["rows"].detail


def test_a_broken_tie_is_found() -> None:
    patient = well(tied=True)
    model: Any = patient.model
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert "tie_word_embeddings: True" in sick(patient)["ties"].detail


def test_ids_that_disagree_are_found() -> None:
    patient = well()
    model: Any = patient.model
    model.generation_config.eos_token_id = [7, 8]
    found = sick(patient)["ids agree"]
    assert found.status == "failed"
    assert "generation_config.eos_token_id is [7, 8], the tokenizer's eos_token 0" in found.detail


def test_the_end_of_a_model_that_writes_no_text_is_only_noted() -> None:
    made = kit.tokenizer("word-piece")
    model = kit.bert(made)
    model.config.eos_token_id = 7
    made.eos_token = "[SEP]"
    patient = Patient(model, model.config, made)
    assert sick(patient)["ids agree"].status == "warned"
    model.config.pad_token_id = 7
    assert sick(patient)["ids agree"].status == "failed"


def test_words_that_are_unknown_do_not_count_for_the_token_that_stands_for_them() -> None:
    words = Tokenizer(WordLevel({"a": 0, "<eos>": 1}, unk_token="<eos>"))
    words.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    assert list(context_findings(made, ["<eos>"])) == []


def test_two_tokenizers_that_disagree_are_found() -> None:
    class Processor:
        def __init__(self) -> None:
            self.tokenizer = kit.tokenizer()

    patient = well(rows=384)
    patient.processor = Processor()
    assert not sick(patient)
    patient.tokenizer.add_tokens([SEG])
    found = sick(patient)["one tokenizer"]
    assert "'[SEG]' has 340 here and no id in the processor" in found.detail
    other = kit.tokenizer()
    other.add_tokens(["<p>", SEG])
    found = sick(patient, others={"the dataset": other})["one tokenizer"]
    assert "in the dataset" in found.detail


def test_pad_and_eos_in_one_are_noted() -> None:
    patient = well()
    patient.tokenizer.pad_token = "</s>"
    patient.config.pad_token_id = 0
    patient.model.generation_config.pad_token_id = 0
    found = sick(patient)
    assert list(found) == ["one meaning each"]
    assert "label masking by pad hides the real end" in found["one meaning each"].detail


def test_padding_on_the_wrong_side_is_noted() -> None:
    assert list(sick(kit.patient())) == ["padding side"]


def test_literals_of_a_foreign_template_are_listed() -> None:
    template = "{% for m in messages %}{{ '<|' ~ m['role'] }}<|end|>{{ '[INST]' }}{% endfor %}"
    assert literals(template) == ("<|end|>", "[INST]")
    patient = well()
    patient.tokenizer.chat_template = template
    found = sick(patient)["chat template"]
    assert found.status == "warned"
    assert "'<|end|>' is 5 ids" in found.detail or "'<|end|>' is 6 ids" in found.detail


def test_a_template_of_unknown_letters_is_found() -> None:
    patient = well("unigram")
    patient.tokenizer.chat_template = "{{ messages[0]['content'] }} 語"
    assert sick(patient)["chat template"].status == "failed"
    patient.tokenizer.chat_template = "{% broken"
    assert "cannot be read" in sick(patient)["chat template"].detail


def test_equal_rows_and_strange_norms_are_noted() -> None:
    patient = well(rows=384)
    patient.tokenizer.add_tokens(["<a>", "<b>"])
    table = patient.model.get_input_embeddings().weight
    with torch.no_grad():
        table[340], table[341] = 50.0, 50.0
    detail = sick(patient)["values of rows"].detail
    assert "the row of '<a>' has norm 200" in detail
    assert "'<a>' and '<b>' have the same row" in detail


def test_holes_and_the_collisions_they_lead_to_are_found() -> None:
    patient = well("word-piece")
    data = json.loads(patient.tokenizer.backend_tokenizer.to_str())
    vocabulary = data["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    new = vocabulary[last] = vocabulary[last] + 1
    patient.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(data))
    assert (
        f"1 ids below {new} belong to no token, {new - 1} first" in sick(patient)["no holes"].detail
    )
    with pytest.raises(SurgeryError, match=f"an id of its own, got {new}, the id of '{last}'"):
        surgery.apply(patient, {"use": "tokens", "with": {"add": ["[SEG]"]}})
    patient.tokenizer.add_tokens([SEG])
    assert f"have the same id {new}" in sick(patient)["no holes"].detail


def test_samples_that_lose_tokens_are_found() -> None:
    made = kit.tokenizer()
    made.add_tokens([SEG])
    texts = ["it is [SEG] and [SEG].", "a long text that ends in a [SEG]"]
    assert not list(sample_findings(made, texts, ["[SEG]"], 0))
    (found,) = sample_findings(made, texts, ["[SEG]"], 10)
    assert found.text == "sample 2 has 1 '[SEG]' and 0 ids of it"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    patient = kit.patient(rows=384)
    patient.tokenizer.padding_side = "left"
    patient.tokenizer.add_tokens([SEG])
    patient.model.save_pretrained(tmp_path / "base")
    patient.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


class TestCommand:
    def test_it_prints_checks_and_ends_well(self, run: Callable[..., Ran], folder: Path) -> None:
        ran = run("doctor", "tokenizer", folder, "--weights")
        assert ran.status == 0, ran.err
        assert "ok    tokens: one id each: 3 tokens in 5 contexts" in ran.out
        assert "ok    tokens: values of rows" in ran.out

    def test_it_is_a_value_for_machines(self, run: Callable[..., Ran], folder: Path) -> None:
        ran = run("doctor", "tokenizer", folder, "--json", "--token", "<nine>")
        assert (ran.status, ran.json["ok"], ran.json["doctor"]) == (1, False, "tokenizer")
        by_name = {check["name"]: check for check in ran.json["checks"]}
        assert by_name["tokens: one id each"]["status"] == "failed"
        assert by_name["tokens: values of rows"]["status"] == "skipped"
        assert "'<nine>' is no token" in ran.err

    def test_its_options_are_those_of_the_plugin(
        self, run: Callable[..., Ran], folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "texts").write_text("one [SEG]\n" + "very " * 30 + "[SEG]\n")
        other = kit.tokenizer()
        other.save_pretrained(tmp_path / "other")
        ran = run(
            "doctor", "tokenizer", folder, "--token", "[SEG]", "--text", "###", "--also",
            tmp_path / "other", "--samples", tmp_path / "texts", "--max-length", 12, "--json",
        )  # fmt: skip
        by_name = {check["name"][8:]: check for check in ran.json["checks"]}
        assert by_name["samples"]["detail"] == "sample 2 has 1 '[SEG]' and 0 ids of it"
        assert by_name["one tokenizer"]["status"] == "failed"
        assert by_name["texts"] == {
            "name": "tokens: texts", "status": "warned", "detail": "'###' is 3 ids"
        }  # fmt: skip

    def test_mistakes_are_one_line(self, run: Callable[..., Ran], tmp_path: Path) -> None:
        ran = run("doctor", "tokenizer", tmp_path / "nowhere")
        assert ran.status == 1
        assert ran.err.count("\n") == 1
        ran = run("doctor", "tokeniser", tmp_path)
        assert ran.status == 2
        assert "tokeniser" in ran.err
        assert "tokenizer" in run("doctor", "--help").out

    def test_no_tokenizer_is_said(self, run: Callable[..., Ran], folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        ran = run("doctor", "tokenizer", folder)
        assert ran.status == 1
        assert "expected a patient with a tokenizer, got none" in ran.err


@pytest.mark.demo
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the MiniLM package is not installed")
class TestMiniLM:
    def test_the_real_one_is_healthy(self, run: Callable[..., Ran]) -> None:
        ran = run("doctor", "tokenizer", "demo:minilm", "--json")
        assert ran.status == 0, ran.out
        assert {check["status"] for check in ran.json["checks"]} <= {"passed", "skipped"}

    def test_it_is_operated_on_and_read_by_all(
        self, run: Callable[..., Ran], tmp_path: Path
    ) -> None:
        from transformers import AutoTokenizer

        from tests.flow.conftest import write_recipe

        step: dict[str, Any] = {
            "use": "tokens",
            "with": {
                "add": ["[SEG]"],
                "rename": {"[unused0]": "<image>"},
                "special": ["<image>"],
                "init": "pieces",
            },
        }
        recipe = write_recipe(
            tmp_path / "r.yaml", patient={"source": "demo", "model": "minilm"}, surgeries=[step]
        )
        ran = run("apply", recipe)
        assert ran.status == 0, ran.err
        read = AutoTokenizer.from_pretrained(tmp_path / "out")
        ids = read("It is [SEG].<image>", add_special_tokens=False).input_ids
        assert ids[2:] == [30522, 1012, 1]
        assert run("doctor", "tokenizer", tmp_path / "out", "--weights").status == 0


PLUGIN = '''
"""A local doctor."""
from __future__ import annotations
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar
from pydantic import Field
from surgery import hookimpl
from surgery.checks.check import Check, failed, passed
from surgery.operate.doctor import Doctor

class Counter(Doctor):
    """Count parameters."""
    name: ClassVar[str] = "acme/counter"
    most: int = Field(default=10**9, description="How many are fine.")
    strict: bool = Field(default=False, description="Fail.")

    def examine(self, patient, folder: Path | None) -> Iterable[Check]:
        count = sum(p.numel() for p in patient.model.parameters())
        good = count <= self.most or not self.strict
        yield passed("count", str(count)) if good else failed("count", str(count))

@hookimpl
def surgery_doctors():
    return (Counter,)
'''


def test_a_stranger_offers_a_doctor(run: Callable[..., Ran], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    local = ("doctor", "--plugin", tmp_path / "plugin.py")
    ran = run(*local, "acme/counter", folder)
    assert ran.status == 0, ran.err
    assert "ok    count: " in ran.out
    ran = run(*local, "acme/counter", folder, "--strict", "--most", "3")
    assert ran.status == 1
