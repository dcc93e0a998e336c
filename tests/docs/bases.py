"""What a reader of a page is told to have: small models and data, under the names of the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.layers import models as layers
from tests.objectives import kit as texts
from tests.objectives.test_training import chats, saved, written
from tests.rope import kit as models
from tests.segmentation import kit as images
from tests.tokens import kit as tokens


def llm(folder: Path) -> None:
    saved(texts.causal(template=texts.CHATML), folder / "llm")
    written(folder / "chats.jsonl", chats(16))
    written(folder / "chats-held-out.jsonl", chats(3))


def base(folder: Path) -> None:
    llm(folder)
    (folder / "llm").rename(folder / "base")


def adapter(folder: Path) -> None:
    """Give a base, and an adapter that PEFT made of it."""
    from peft import LoraConfig, get_peft_model

    base(folder)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = texts.causal().model
    get_peft_model(model, config).save_pretrained(str(folder / "adapter"))


def eight_layers(folder: Path) -> None:
    layers.made(lambda: layers.llama(num_hidden_layers=8)).save_pretrained(folder / "llm")


def sam2(folder: Path) -> None:
    images.sam2(128).save_pretrained(folder / "sam2")
    masks(folder)


def sam3(folder: Path) -> None:
    models.sam3().save_pretrained(folder / "sam3")
    images.tokenizer().save_pretrained(folder / "sam3")
    masks(folder)


def masks(folder: Path) -> None:
    """Write images with masks, and with notes that name where the object is a view."""
    for name in ("train", "held-out"):
        notes = images.folders(folder / name, 2) / "notes.json"
        notes.write_text(notes.read_text().replace('"place"', '"view"'))


def llava(folder: Path) -> None:
    made = tokens.tokenizer()
    made.add_tokens(["<image>"])
    tokens.llava(made, made.convert_tokens_to_ids("<image>")).save_pretrained(folder / "llava")
    made.save_pretrained(folder / "llava")


def nothing(folder: Path) -> None:
    """Need no more than the packages."""


Base = Callable[[Path], None]
