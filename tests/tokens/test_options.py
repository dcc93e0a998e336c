"""What the options of ``tokens`` mean, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import AddedToken

import surgery
from surgery import Patient, SurgeryError
from tests.tokens import kit


def tokens(**options: Any) -> dict[str, Any]:
    return {"use": "tokens", "with": options}


def row(patient: Patient, token: str, head: bool = False) -> torch.Tensor:
    model: Any = patient.model
    module = model.get_output_embeddings() if head else model.get_input_embeddings()
    return module.weight[patient.tokenizer.convert_tokens_to_ids(token)].detach()


def pieces(patient: Patient, text: str) -> list[int]:
    return list(patient.tokenizer.encode(text, add_special_tokens=False))


class TestInitialise:
    def test_every_way_gives_the_row_it_says(self) -> None:
        patient = kit.patient()
        table = patient.model.get_input_embeddings().weight.detach().clone()
        spelled, described = pieces(patient, "<b>"), pieces(patient, "the mask")
        number = patient.tokenizer.convert_tokens_to_ids("</s>")
        add = [
            {"content": "<a>", "init": "mean"},
            {"content": "<b>", "init": "pieces"},
            {"content": "<c>", "init": {"copy_of": "</s>"}},
            {"content": "<d>", "init": {"text": "the mask"}},
            {"content": "<e>", "init": "normal"},
        ]
        surgery.apply(patient, tokens(add=add))
        assert len(spelled) > 1
        assert torch.allclose(row(patient, "<a>"), table.mean(0))
        assert torch.allclose(row(patient, "<b>"), table[spelled].mean(0))
        assert torch.equal(row(patient, "<c>"), table[number])
        assert torch.allclose(row(patient, "<d>"), table[described].mean(0))
        drawn = row(patient, "<e>")
        assert not torch.allclose(drawn, table.mean(0), atol=1e-3)
        away = (drawn - table.mean(0)) / table.std(0, correction=0)
        assert away.abs().max() < 5

    def test_head_rows_are_made_of_head_rows(self) -> None:
        patient = kit.patient()
        spelled = pieces(patient, "<b>")
        head = patient.model.get_output_embeddings().weight.detach().clone()
        add = [{"content": "<a>", "head_init": "mean"}, "<b>"]
        surgery.apply(patient, tokens(add=add, init="pieces"))
        assert torch.allclose(row(patient, "<a>", head=True), head.mean(0))
        assert torch.allclose(row(patient, "<b>", head=True), head[spelled].mean(0))

    def test_padding_rows_count_in_no_mean(self) -> None:
        patient = kit.patient(rows=384)
        used = len(patient.tokenizer)
        table = patient.model.get_input_embeddings().weight
        with torch.no_grad():
            table[used:] = 1e3
        wanted = table[:used].mean(0).detach()
        surgery.apply(patient, tokens(add=["[SEG]"]))
        assert torch.allclose(row(patient, "[SEG]"), wanted)

    def test_the_seed_decides_what_is_drawn(self) -> None:
        rows = []
        for seed in (0, 0, 1):
            patient = kit.patient()
            surgery.apply(patient, tokens(add=["[SEG]"], init="normal"), seed=seed)
            rows.append(row(patient, "[SEG]"))
        assert torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[0], rows[2])

    def test_low_precision_keeps_its_dtype_and_the_old_bits(self) -> None:
        patient = kit.patient()
        patient.model.to(torch.bfloat16)
        table = patient.model.get_input_embeddings().weight.detach().clone()
        surgery.apply(patient, tokens(add=["[SEG]"], init="normal"))
        now = patient.model.get_input_embeddings().weight
        assert now.dtype == torch.bfloat16
        assert torch.equal(now[: len(table)], table)


class TestRows:
    def test_a_padded_table_never_shrinks(self) -> None:
        patient = kit.patient(rows=384)
        surgery.apply(patient, tokens(add=["[SEG]"], pad_to_multiple_of=8))
        assert patient.model.get_input_embeddings().weight.shape[0] == 384
        assert patient.config.vocab_size == 384

    def test_it_shrinks_when_asked(self) -> None:
        patient = kit.patient(rows=384)
        used = len(patient.tokenizer)
        before = patient.model.get_input_embeddings().weight.detach().clone()
        surgery.apply(patient, tokens(shrink=True))
        assert patient.config.vocab_size == used
        assert torch.equal(patient.model.get_input_embeddings().weight, before[:used])

    def test_rows_are_rounded_up(self) -> None:
        patient = kit.patient()
        surgery.apply(patient, tokens(add=["[SEG]"], pad_to_multiple_of=64))
        rows = patient.model.get_input_embeddings().weight.shape[0]
        assert rows % 64 == 0
        assert len(patient.tokenizer) <= rows < len(patient.tokenizer) + 64
        assert patient.model.get_output_embeddings().weight.shape[0] == rows

    def test_rows_alone_need_no_tokenizer(self) -> None:
        patient = kit.patient()
        patient.tokenizer = None
        surgery.apply(patient, tokens(pad_to_multiple_of=64))
        assert patient.config.vocab_size % 64 == 0


class TestTokens:
    def test_flags_are_those_that_were_asked_for(self) -> None:
        patient = kit.patient()
        flags = {"special": False, "normalized": True, "lstrip": True, "rstrip": True}
        surgery.apply(patient, tokens(add=[{"content": "<x>", **flags}, "<y>"]))
        known = {str(t): t for t in patient.tokenizer.added_tokens_decoder.values()}
        for name, value in flags.items():
            assert getattr(known["<x>"], name) == value
            assert getattr(known["<y>"], name) == (name == "special")
        assert patient.tokenizer.decode(pieces(patient, "a<x>"), skip_special_tokens=True) != "a"

    @pytest.mark.parametrize(
        ("family", "old"),
        [("word-piece", "[unused1]"), ("unigram", "<s>"), ("byte-level", "<pad>"),
         ("metaspace-first", "<s>")],
    )  # fmt: skip
    def test_a_renamed_token_keeps_id_and_row(self, family: str, old: str) -> None:
        patient = kit.patient(family)
        number, before = patient.tokenizer.get_vocab()[old], row(patient, old)
        made = surgery.apply(patient, tokens(rename={old: "[SEG]"}))
        assert pieces(patient, "it is [SEG].").count(number) == 1
        assert patient.tokenizer.convert_ids_to_tokens(number) == "[SEG]"
        assert old not in patient.tokenizer.get_vocab()
        assert torch.equal(row(patient, "[SEG]"), before)
        assert not made.plan.changed
        assert "<pad>" not in (patient.tokenizer.pad_token, "") or old != "<pad>"

    def test_renaming_follows_templates_and_roles(self) -> None:
        patient = kit.patient("word-piece")
        patient.tokenizer.chat_template = "{{ '[SEP]' }}{{ messages[0]['content'] }}"
        old = patient.tokenizer("a cat").input_ids
        surgery.apply(patient, tokens(rename={"[SEP]": "[END]"}))
        assert patient.tokenizer.sep_token == "[END]"
        assert patient.tokenizer("a cat").input_ids == old
        assert "[END]" in patient.tokenizer.chat_template
        assert "[SEP]" not in patient.tokenizer.chat_template

    def test_a_marked_token_is_found_first_and_left_out_of_text(self) -> None:
        patient = kit.patient()
        surgery.apply(patient, tokens(add=[{"content": "<x>", "special": False}]))
        assert patient.tokenizer.decode(pieces(patient, "a<x>"), skip_special_tokens=True) == "a<x>"
        surgery.apply(patient, tokens(special=["<x>"]))
        assert patient.tokenizer.decode(pieces(patient, "a<x>"), skip_special_tokens=True) == "a"

    def test_the_last_tokens_go_and_their_rows_stay(self) -> None:
        patient = kit.patient()
        before = len(patient.tokenizer)
        surgery.apply(patient, tokens(add=["<x>", "<y>"]))
        rows = patient.config.vocab_size
        surgery.apply(patient, tokens(remove=["<y>", "<x>"]))
        assert len(patient.tokenizer) == before
        assert patient.config.vocab_size == rows
        surgery.apply(patient, tokens(add=["<z>"]))
        assert patient.tokenizer.get_vocab()["<z>"] == before
        assert patient.config.vocab_size == rows

    def test_one_recipe_may_hold_two_of_them(self) -> None:
        patient = kit.patient()
        before = len(patient.tokenizer)
        surgery.apply(patient, [tokens(add=["<x>"]), tokens(add=["<y>"], pad_to_multiple_of=8)])
        assert patient.tokenizer.get_vocab()["<y>"] == before + 1
        assert patient.config.vocab_size % 8 == 0


class TestIds:
    def test_a_named_token_is_named_everywhere(self) -> None:
        patient = kit.patient()
        model: Any = patient.model
        model.generation_config.eos_token_id = [0, 7]
        surgery.apply(patient, tokens(add=["<end>"], assign={"eos_token": "<end>"}))
        number = patient.tokenizer.get_vocab()["<end>"]
        assert patient.tokenizer.eos_token_id == number
        assert patient.config.eos_token_id == number
        assert model.generation_config.eos_token_id == [number, 7]

    def test_an_image_token_reaches_config_and_processor(self) -> None:
        class Processor:
            def __init__(self, made: Any) -> None:
                self.tokenizer, self.image_token, self.image_token_id = made, "<image>", 340

        made = kit.tokenizer()
        made.add_tokens([AddedToken("<image>", special=True, normalized=False)])
        model = kit.llava(made, 340)
        patient = Patient(model, model.config, made, processor=Processor(made))
        done = surgery.apply(patient, tokens(add=["<img>"], assign={"image_token": "<img>"}))
        assert model.config.image_token_id == 341
        assert (patient.processor.image_token, patient.processor.image_token_id) == ("<img>", 341)
        assert patient.processor.tokenizer is patient.tokenizer
        done.undo()
        assert (patient.processor.image_token, patient.processor.image_token_id) == ("<image>", 340)
        assert patient.processor.tokenizer is made
        assert model.config.image_token_id == 340
        surgery.apply(patient, tokens(rename={"<image>": "<pic>"}))
        assert patient.processor.image_token == "<pic>"

    def test_a_new_chat_template_is_examined(self) -> None:
        patient = kit.patient()
        text = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        made = surgery.apply(patient, tokens(add=["<|end|>"], chat_template=text))
        assert patient.tokenizer.chat_template == text
        (check,) = [c for c in made.checks if c.name == "tokens: chat template"]
        assert check.status == "passed"
        made.undo()
        (check,) = [
            c for c in surgery.apply(patient, tokens(chat_template=text)).checks
            if c.name == "tokens: chat template"
        ]  # fmt: skip
        assert (check.status, "'<|end|>' is" in check.detail) == ("warned", True)


REFUSED = {
    "no tokenizer": (tokens(add=["[SEG]"]), "expected a patient with a tokenizer, got none"),
    "is there": (tokens(add=["</s>"]), "expected a token that is not there, got '</s>'"),
    "nothing to rename": (tokens(rename={"<nine>": "<ten>"}), "'<nine>', which is none"),
    "renamed to another": (tokens(rename={"<pad>": "</s>"}), "'</s>', which is a token already"),
    "in merges": (tokens(rename={"the": "<x>"}), "a token that no merge makes or uses"),
    "in the middle": (tokens(remove=["<pad>"]), "the last tokens, so that no other id changes"),
    "unknown name": (tokens(assign={"moon_token": "</s>"}), "a name that tokenizer, config"),
    "no such token": (tokens(assign={"pad_token": "<p4d>"}), "'<p4d>', which is none"),
    "no such copy": (tokens(add=["<x>"], init={"copy_of": "<nine>"}), "'<nine>', which is none"),
    "mistaken init": (tokens(add=["<x>"], init="median"), "with.init"),
    "twice": (tokens(add=["<x>", "<x>"]), "each token once, got <x> twice"),
    "nothing": (tokens(), "something to change, got nothing"),
    "nothing to train": (tokens(special=["</s>"], train="new"), "whose rows can train, got none"),
    "wrong tables": (tokens(add=["<x>"], tables=["lm.weight"]), "names of weights, got lm.weight"),
    "a part": ({**tokens(add=["<x>"]), "at": {"path": "lm_head"}}, "leave `at:` out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(name: str) -> None:
    patient = kit.patient()
    if name == "no tokenizer":
        patient.tokenizer = None
    step, message = REFUSED[name]
    before = kit.bits(patient.model)
    with pytest.raises(SurgeryError) as raised:
        surgery.apply(patient, step)
    assert message in str(raised.value)
    assert kit.bits(patient.model) == before


def test_a_token_that_something_refers_to_is_not_removed() -> None:
    patient = kit.patient()
    surgery.apply(patient, tokens(add=["<end>"], assign={"eos_token": "<end>"}))
    with pytest.raises(SurgeryError, match="'<end>', the eos_token"):
        surgery.apply(patient, tokens(remove=["<end>"]))
    patient.tokenizer.eos_token = "</s>"
    with pytest.raises(SurgeryError, match=r"340, the config\.eos_token_id"):
        surgery.apply(patient, tokens(remove=["<end>"]))


def test_pieces_that_the_tokenizer_does_not_know_are_no_start() -> None:
    patient = kit.patient("word-piece")
    with pytest.raises(SurgeryError, match="of which it knows none"):
        surgery.apply(patient, tokens(add=["語"], init="pieces"))


def test_tables_of_two_heights_are_refused() -> None:
    patient = kit.patient()
    model: Any = patient.model
    model.lm_head = torch.nn.Linear(16, 350, bias=False)
    with pytest.raises(SurgeryError, match=r"tables of one height.*340.*350"):
        surgery.apply(patient, tokens(add=["[SEG]"]))


def test_a_second_table_of_the_same_height_is_not_overlooked() -> None:
    patient = kit.patient()
    patient.model.extra = torch.nn.Embedding(340, 4)
    with pytest.raises(SurgeryError, match=r"extra\.weight with as many rows"):
        surgery.apply(patient, tokens(add=["[SEG]"]))
    named = ["model.embed_tokens.weight", "lm_head.weight", "extra.weight"]
    surgery.apply(patient, tokens(add=["[SEG]"], tables=named))
    assert patient.model.extra.weight.shape == (341, 4)
    assert patient.model.extra.num_embeddings == 341


def test_a_plain_piece_with_another_text_is_not_yet_a_token_of_its_own() -> None:
    patient = kit.patient("word-piece")
    plain = next(t for t in patient.tokenizer.get_vocab() if t.isalpha() and len(t) > 1)
    with pytest.raises(SurgeryError, match=r"at the start is not found \(it is no added token"):
        surgery.apply(patient, tokens(rename={plain: "[SEG]"}))
    surgery.apply(patient, tokens(rename={plain: "[SEG]"}, special=["[SEG]"]))
