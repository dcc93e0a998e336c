"""The family ``internvl-chat``: InternVL and Sa2VA in the classes that come with their checkpoints.

transformers' own InternVL is known to the family ``vision-language``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

from surgery.operate.family import Family, Violation
from surgery_plugins.families.pictures import (
    Pictures,
    connected,
    counted,
    given,
    named,
    positioned,
)
from surgery_plugins.families.prompts import below, pair
from surgery_plugins.families.sam2.anatomy import segmenters
from surgery_plugins.families.towers import Tower, gives, reads, text_width, tower_of

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient

_PARTS = {"vision_model", "mlp1", "language_model"}


@final
class InternVLChat(Family):
    """Know InternVL's chat model, and Sa2VA: the same beside a SAM 2.

    Widths, the number of places for an image, and ids are read off the modules and attributes
    ``num_image_token``, ``downsample_ratio``, ``img_context_token_id`` and ``seg_token_idx``.
    """

    name: ClassVar[str] = "internvl-chat"

    def matches(self, model: nn.Module) -> bool:
        """Tell whether there is such a chat model in a model."""
        return next(_chats(model), None) is not None

    def hints(self, model: nn.Module) -> Mapping[str, frozenset[str]]:
        """Give the connector its role."""
        return {below(path, "mlp1"): frozenset(("resampler",)) for path, _ in _chats(model)}

    def contracts(self, patient: Patient) -> Iterable[Violation]:
        """Check tower, connector, language model, prompts and what leads to the masks."""
        for path, chat in _chats(patient.model):
            yield from _pictures(path, chat, patient)
        for path, module in patient.model.named_modules():
            if hasattr(module, "text_hidden_fcs") and hasattr(module, "grounding_encoder"):
                yield from _grounded(path, module)


def _chats(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        if module._modules.keys() >= _PARTS:
            yield path, module


def _pictures(path: str, chat: Any, patient: Patient) -> Iterator[Violation]:
    tower = tower_of(below(path, "vision_model"), chat.vision_model)
    if tower is None:
        return
    token = getattr(chat, "img_context_token_id", None)
    one = Pictures(
        below(path, "mlp1"),
        chat.mlp1,
        tower,
        text_width(chat.language_model),
        joined=round(1 / chat.downsample_ratio),
        image_id=None if token is None else (below(path, "img_context_token_id"), int(token)),
    )
    yield from positioned(one)
    yield from connected(one)
    stated = {below(path, "num_image_token"): getattr(chat, "num_image_token", None)}
    yield from counted(one, stated, _patches(chat, tower))
    yield from named(one, {})
    yield from given(one, patient.inputs or {})


def _patches(chat: Any, tower: Tower) -> int:
    """Count the patches of a tile; its table is resampled where the tile's size is forced."""
    forced = getattr(getattr(chat, "config", None), "force_image_size", None)
    if forced is None:
        return tower.patches
    return (pair(forced)[0] // tower.patch[0]) * (pair(forced)[1] // tower.patch[1])


def _grounded(path: str, module: Any) -> Iterator[Violation]:
    """Check the way from the hidden state of [SEG] to a prompt of the mask decoder."""
    chat = next((found for _, found in _chats(module)), None)
    text = text_width(chat.language_model) if chat is not None else None
    sam = next(segmenters(module.grounding_encoder), None)
    where = below(path, "text_hidden_fcs")
    first, last = reads(module.text_hidden_fcs), gives(module.text_hidden_fcs)
    if text is not None and first is not None and first[1] != text[1]:
        wanted = f"{text[1]}, the width of the language model's tokens"
        yield Violation("[SEG] input", below(where, first[0]), wanted, str(first[1]), _REBUILD)
    if sam is not None and last is not None:
        width = int(sam.encoder.no_mask_embed.weight.shape[1])
        if last[1] != width:
            wanted = f"{width}, the width of the prompts of {below(path, 'grounding_encoder')}"
            yield Violation("[SEG] output", below(where, last[0]), wanted, str(last[1]), _REBUILD)
    index = getattr(module, "seg_token_idx", None)
    if index is not None and text is not None and not 0 <= index < text[0]:
        wanted = f"an id below {text[0]}, the rows of the embedding"
        mend = "add [SEG] with `use: tokens`"
        yield Violation("[SEG] token", below(path, "seg_token_idx"), wanted, str(index), mend)


_REBUILD = "rebuild text_hidden_fcs with this width"
