"""How PEFT names files and tensors, in this version and in older ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"

PREFIX = "base_model.model."
"""What PEFT puts before a name of the base."""

_WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What compiling, sharding and activation checkpointing put into names."""

_LORA = re.compile(
    r"(?P<path>.+)\.lora_(?P<table>embedding_)?(?P<part>A|B|magnitude_vector)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.(?P<leaf>weight|bias))?"
)

_TOKENS = re.compile(r"(?P<path>.+)\.token_adapter\.trainable_tokens_delta(?:\.[^.]+)?")

_SAVED = re.compile(r"\.modules_to_save(\.[^.]+)?")


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of one tensor says.

    Attributes:
        key: the name in the file.
        kind: ``lora``, ``tokens``, or ``base`` for a tensor that the base has too.
        path: the module; for ``base``, the tensor's own dotted name.
        part: ``A``, ``B`` or ``M`` of LoRA, or the empty text.
        depth: how many wrappers of one module lie around this one.
    """

    key: str
    kind: str
    path: str
    part: str = ""
    depth: int = 0


def parse(key: str) -> Name | None:
    """Read the name of one tensor; None where PEFT's LoRA has no such name."""
    plain = _WRAPPERS.sub("", key).removeprefix(PREFIX)
    if found := _LORA.fullmatch(plain):
        if found["leaf"] == "bias":
            return None
        path = found["path"].replace(".base_layer", "")
        depth = found["path"].count(".base_layer") if found["path"].endswith(".base_layer") else 0
        return Name(key, "lora", path, found["part"][0].upper(), depth)
    if found := _TOKENS.fullmatch(plain):
        return Name(key, "tokens", found["path"])
    unknown = "lora_" in plain or "token_adapter.trainable" in plain
    return None if unknown else Name(key, "base", plain)


def in_base(name: str, known: object) -> str | None:
    """Find the tensor of the base that a name means.

    Args:
        name: a dotted name without PEFT's prefix.
        known: a container with the base's names.
    """
    plain = re.sub(r"\.(?:base_layer|original_module|token_adapter)(?=\.)", "", name)
    found = (plain, _SAVED.sub("", plain, 1), plain.replace(".modules_to_save", "", 1))
    return next((one for one in found if one in known), None)  # type: ignore[operator]


def is_copy(name: str) -> bool:
    """Tell whether a name is that of the base's own tensor, kept beside a trained one."""
    return ".original_module." in name
