"""Tokenizers of every family, trained on the spot, and tiny models with as many rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from surgery import Patient

CORPUS = [
    "The mask of the segmented object is sharp. It is a cat on a mat.",
    "Please segment the dog in the image, then answer: where is it?",
    "A plan shows the exact change before any weight is read [or written].",
    "The journal rebuilds what was done; undo restores the exact bits!",
    "user assistant system: describe the region, and give a caption.",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
METASPACE = ("always", "first", "never")


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["</s>", "<pad>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _metaspace(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _legacy_llama() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokens = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=440, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _with_bytes(tokenizer, tokens[len(SPECIAL) :])


def _with_bytes(tokenizer: Tokenizer, pieces: list[str]) -> Tokenizer:
    data = json.loads(tokenizer.to_str())
    vocabulary = data["model"]["vocab"]
    for piece in pieces:
        vocabulary.setdefault(piece, len(vocabulary))
    return Tokenizer.from_str(json.dumps(data))


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _in_order(tokenizer)


def _in_order(tokenizer: Tokenizer) -> Tokenizer:
    """Give pieces that are as likely an order of their own; the trainer's is by chance."""
    data = json.loads(tokenizer.to_str())
    pieces = [(piece, round(score, 6)) for piece, score in data["model"]["vocab"]]
    special, others = pieces[: len(SPECIAL)], pieces[len(SPECIAL) :]
    data["model"]["vocab"] = special + sorted(others, key=lambda one: (-one[1], one[0]))
    return Tokenizer.from_str(json.dumps(data))


def _word_piece() -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[unused2]"]
    tokenizer = _as_bert(models.WordPiece(_pieces(special), unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    ids = {token: tokenizer.token_to_id(token) for token in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return tokenizer


def _pieces(special: list[str]) -> dict[str, int]:
    """Train pieces of words; the trainer numbers the letters within words by chance if it may."""
    inner = sorted({f"##{letter}" for letter in "".join(CORPUS).lower() if letter.isalpha()})
    trained = _as_bert(models.WordPiece(unk_token="[UNK]"))
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=special + inner, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    return dict(trained.get_vocab())


def _as_bert(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


_MAKERS: dict[str, tuple[Callable[[], Tokenizer], dict[str, str]]] = {
    "byte-level": (_byte_level, {"eos_token": "</s>", "pad_token": "<pad>"}),
    **{
        f"metaspace-{scheme}": (
            lambda scheme=scheme: _metaspace(scheme),  # type: ignore[misc]
            {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        )
        for scheme in METASPACE
    },
    "legacy-llama": (
        _legacy_llama,
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    ),
    "unigram": (_unigram, {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}),
    "word-piece": (
        _word_piece,
        {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
         "mask_token": "[MASK]"},
    ),
}  # fmt: skip
FAMILIES = tuple(_MAKERS)


@cache
def _trained(family: str) -> str:
    return _MAKERS[family][0]().to_str()


def tokenizer(family: str = "byte-level", **options: Any) -> Any:
    """Give a fresh tokenizer of a family."""
    made = Tokenizer.from_str(_trained(family))
    return PreTrainedTokenizerFast(tokenizer_object=made, **{**_MAKERS[family][1], **options})


def llama(made: Any, *, rows: int | None = None, tied: bool = False) -> Any:
    """Give a tiny causal model for a tokenizer, with as many rows unless told."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows or len(made), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def bert(made: Any) -> Any:
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(made), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64, pad_token_id=made.pad_token_id,
        )
    ).eval()  # fmt: skip


def llava(made: Any, image: int) -> Any:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": len(made), "max_position_embeddings": 64,
        "bos_token_id": None, "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id, **shape,
    }  # fmt: skip
    vision = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **shape}
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    ).eval()


def patient(family: str = "byte-level", *, tied: bool = False, rows: int | None = None) -> Patient:
    """Give a tokenizer of a family and a tiny model that fits it."""
    made = tokenizer(family)
    model = bert(made) if family == "word-piece" else llama(made, tied=tied, rows=rows)
    return Patient(model, model.config, made)


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    """Give every tensor's bytes by name."""
    return {n: t.detach().numpy().tobytes() for n, t in model.state_dict(keep_vars=True).items()}
