"""Patients that the zoo has no kind of: models of transformers, one with a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from surgery import Patient
from surgery_plugins.sources.hf import HfSource
from tests.rope import kit as vision
from tests.stream.models import save as save_of
from tests.tokens import kit as texts


def _with_tokenizer(folder: Path) -> HfSource:
    found = texts.patient("byte-level", tied=True)
    found.model.save_pretrained(folder, max_shard_size="60KB")
    found.tokenizer.save_pretrained(folder)
    return HfSource(path=str(folder))


class WithImage(HfSource):
    """Give the patient inputs, which cannot be guessed: a text with a place for each patch."""

    def build(self) -> Patient:
        return replace(super().build(), inputs=_inputs("meta"))

    def load(self) -> Patient:
        return replace(super().load(), inputs=_inputs("cpu"))


def _inputs(device: str) -> dict[str, torch.Tensor]:
    ids, pixels = torch.tensor([[1, 5, 5, 5, 5, 7]]), torch.linspace(-1, 1, 192)
    return {"input_ids": ids.to(device), "pixel_values": pixels.view(1, 3, 8, 8).to(device)}


def _llava(folder: Path) -> HfSource:
    return WithImage(path=str(save_of("llava", folder, True)))


def _vit(folder: Path) -> HfSource:
    vision.vit().save_pretrained(folder, max_shard_size="20KB")
    return HfSource(path=str(folder))


MAKERS: dict[str, Callable[[Path], Any]] = {
    "llama with a tokenizer": _with_tokenizer, "vit": _vit, "llava": _llava,
}  # fmt: skip


def of_transformers(folder: Path) -> dict[str, Callable[[], Any]]:
    """Give what makes each, once, when it is first called for."""
    return {name: cache(partial(make, folder / name)) for name, make in MAKERS.items()}
