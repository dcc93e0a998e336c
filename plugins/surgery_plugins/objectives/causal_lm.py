"""The objective ``causal-lm``: the next token of chats, of completions, or of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from surgery.errors import RefusedError
from surgery.operate.objective import Batch, Objective, Sample, Step
from surgery_plugins.objectives.chat import Learn, chat_tokens, messages_in
from surgery_plugins.objectives.packing import packed, uncached, unpackable
from surgery_plugins.objectives.tokens import (
    IGNORED,
    TooLong,
    checked,
    limit_of,
    padded,
    text_in,
)
from surgery_plugins.objectives.vision.images import Images
from surgery_plugins.objectives.vision.slots import expanded, slots_of

if TYPE_CHECKING:
    from random import Random

    from torch import Tensor, nn

    from surgery.operate.patient import Patient


class CausalLm(Objective):
    """Learn the next token; of a chat only what the assistant says, of a prompt nothing.

    Give one of ``messages`` (chats, through the tokenizer's own template), ``completion`` (with
    ``prompt`` or without) and ``text``.
    """

    name: ClassVar[str] = "causal-lm"
    better: ClassVar[Mapping[str, str]] = {
        "loss": "min", "accuracy": "max", "bits_per_token": "min",
    }  # fmt: skip

    messages: str | None = Field(None, description="Key of a chat: a list of role and content.")
    learn: Learn = Field(
        "replies", description="Of a chat: all replies, the last one, or every token."
    )
    tools: str | None = Field(None, description="Key of the tools that the template gets.")
    prompt: str | None = Field(None, description="Key of a text that is read and not learned.")
    completion: str | None = Field(None, description="Key of the text that is learned after it.")
    text: str | None = Field(None, description="Key of a plain text, all of which is learned.")
    end: bool = Field(True, description="Learn the end of text after a completion or plain text.")
    max_tokens: int | None = Field(None, ge=2, description="Tokens of one sample, at most.")
    too_long: TooLong = Field("refuse", description="Longer samples fail, or are cut at the end.")
    packing: bool = Field(
        False, description="Join samples into rows of max_tokens, in which none sees another."
    )
    image: Images | None = Field(
        None, description="Of a vision-language model: the image that each text is about."
    )

    @model_validator(mode="after")
    def _one(self) -> CausalLm:
        given = [one for one in (self.messages, self.completion, self.text) if one is not None]
        if len(given) != 1:
            raise ValueError("expected one of messages, completion and text")
        if self.prompt is not None and self.completion is None:
            raise ValueError("expected prompt only with completion")
        if self.tools is not None and self.messages is None:
            raise ValueError("expected tools only with messages")
        if self.image is not None and (self.packing or self.too_long == "cut"):
            raise ValueError("expected images without packing and without cutting")
        return self

    def refuse(self, patient: Patient) -> str | None:
        """Refuse a patient without tokenizer, vocabulary head or, for chats, template."""
        tokenizer, model = patient.tokenizer, patient.model
        if tokenizer is None:
            return "it has no tokenizer"
        if getattr(model, "get_output_embeddings", lambda: None)() is None:
            return "it has no head over a vocabulary; choose a class that has with `architecture:`"
        if self.messages is not None and not getattr(tokenizer, "chat_template", None):
            return "its tokenizer has no chat template; learn `text:` or `completion:` instead"
        if self.messages is not None and not getattr(tokenizer, "is_fast", False):
            return "its tokenizer does not tell which characters a token stands for"
        if self.messages is None and self.end and tokenizer.eos_token_id is None:
            return "its tokenizer has no end of text; write `end: false` to learn without it"
        if self.image is not None and (why := self.image.refuse(patient)):
            return why
        return unpackable(model) if self.packing else None

    def encode(self, sample: Sample, patient: Patient, random: Random) -> Mapping[str, Any]:
        """Turn a sample into tokens and labels."""
        import torch

        ids, learned = self._tokens(sample, patient)
        image = {}
        if self.image is not None:
            image = {"pixel_values": self.image.pixels(sample, patient)}
            slots = slots_of(patient)
            ids, origin = expanded(ids, slots)
            learned = [learned[n] and ids[m] != slots.token for m, n in enumerate(origin)]
        limit = limit_of(patient, self.max_tokens)
        if self.too_long == "cut":
            ids, learned = ids[:limit], learned[:limit]
        checked(ids, patient, limit)
        if not any(learned[1:]):
            raise ValueError(
                f"expected a token to learn, got none among {len(ids)}: "
                "is the completion empty, or cut away?"
            )
        numbers = torch.tensor(ids)
        labels = numbers.where(torch.tensor(learned), IGNORED)
        labels[0] = IGNORED  # nothing comes before the first token
        return {"input_ids": numbers, "labels": labels, **image}

    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
        """Pad samples to the longest, or pack them."""
        import torch

        if self.packing:
            return packed(encoded, patient, limit_of(patient, self.max_tokens))
        rows = [{**one, "attention_mask": torch.ones_like(one["input_ids"])} for one in encoded]
        return padded(rows, patient)

    def weight(self, batch: Batch) -> float:
        """Count the tokens that are learned."""
        return float((batch["labels"] != IGNORED).sum())

    def step(self, model: nn.Module, batch: Batch) -> Step:
        """Give the cross entropy of the tokens that are learned, in float32."""
        from torch.nn.functional import cross_entropy

        inputs = {name: value for name, value in batch.items() if name != "labels"}
        labels: Tensor = batch["labels"][:, 1:]
        places = labels != IGNORED
        logits = _logits(model, inputs)[:, :-1][places].float()
        wanted = labels[places]
        loss = cross_entropy(logits, wanted)
        right, count = (logits.detach().argmax(-1) == wanted).sum(), len(wanted)
        metrics: dict[str, tuple[Tensor | float, Tensor | float]] = {
            "accuracy": (right, count),
            "bits_per_token": (loss.detach() * count / log(2), count),
            "learned": (count, batch["labels"].numel()),
        }
        return Step(loss, metrics, (0.0, None))

    def _tokens(self, sample: Sample, patient: Patient) -> tuple[list[int], list[bool]]:
        """Give tokens, and whether each is learned."""
        tokenizer = patient.tokenizer
        if self.messages is not None:
            tools = {"tools": sample[self.tools]} if self.tools and sample.get(self.tools) else {}
            return chat_tokens(tokenizer, messages_in(sample, self.messages), self.learn, **tools)
        end = [tokenizer.eos_token_id] if self.end else []
        if self.text is not None:
            ids = tokenizer(text_in(sample, self.text), verbose=False)["input_ids"]
            ids = ids[:-1] if end and ids[-1:] == end else ids
            return [*ids, *end], [True] * (len(ids) + len(end))
        return self._completed(sample, tokenizer, end)

    def _completed(
        self, sample: Sample, tokenizer: Any, end: list[int]
    ) -> tuple[list[int], list[bool]]:
        """Give a prompt, which opens as the tokenizer opens texts, and its completion."""
        before = text_in(sample, self.prompt) if self.prompt is not None else ""
        opening = tokenizer(before, verbose=False)["input_ids"]
        if opening and opening[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id:
            opening = opening[:-1]
        after = text_in(sample, str(self.completion))
        reply = tokenizer(after, add_special_tokens=False, verbose=False)["input_ids"]
        reply = [*reply, *end]
        return [*opening, *reply], [False] * len(opening) + [True] * len(reply)


def _logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Give rows x tokens x vocabulary; nothing is cached."""
    logits: Tensor | None = getattr(model(**inputs, **uncached(model)), "logits", None)
    if logits is None or logits.ndim != 3:
        found = "none" if logits is None else f"shape {tuple(logits.shape)}"
        raise RefusedError("train.objective", "logits of texts x tokens x vocabulary", found)
    return logits
