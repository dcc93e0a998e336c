"""What else must say so when images have another size: places in the prompt, and the processor."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from surgery.operate.edits import SetConfig
from surgery_plugins.families.hosts import Host, fit_of, places
from surgery_plugins.families.vlm import pictures_of
from surgery_plugins.surgeries.fresh.image import Size, pair
from surgery_plugins.surgeries.fresh.settings import joined, parts, stated

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient

_SIDES = {"height": 0, "width": 1}
_EDGES = ("shortest_edge", "longest_edge")


def place_edits(patient: Patient, model: nn.Module) -> Iterator[SetConfig]:
    """Give the edits that count the places for an image anew, where its tokens become others.

    Args:
        patient: before.
        model: what its changed configuration builds.
    """
    after = places(model)
    for path, (host, owner) in places(patient.model).items():
        if path not in after:
            continue
        connector = patient.model.get_submodule(path)
        before = _slots(patient.model, path, owner, connector)
        now = _slots(model, path, after[path][1], connector)
        if now is not None and now != before:
            yield from _counted(now, host, owner, patient)


def _slots(model: nn.Module, path: str, owner: nn.Module, connector: Any) -> int | None:
    """Give how many tokens an image becomes, where that can be told."""
    host = places(model)[path][0]
    if hasattr(connector, "out_tokens"):
        tokens = fit_of(model, path).tokens
        return None if tokens is None else int(connector.out_tokens(tokens))
    pictures = pictures_of(path, host, owner)
    return None if pictures is None else pictures.tokens(pictures.tower.patches)


def _counted(count: int, host: Host, owner: Any, patient: Patient) -> Iterator[SetConfig]:
    for key, part in parts(patient.config):
        if part is owner.config and host.slots and stated(part, host.slots) != count:
            yield SetConfig(joined(key, host.slots), count)
    if host.processor and getattr(patient.processor, host.processor, count) != count:
        yield SetConfig(host.processor, count, "processor")


def processor_edits(patient: Patient, config: Any) -> Iterator[SetConfig]:
    """Give the edits that make a processor give images of another size, or cut as the model does.

    All sizes that it states, of resizing, cropping, padding and masks, grow as the images do,
    where one of them is the images' size; one number for both sides grows as the longer side.

    Args:
        patient: before.
        config: the changed configuration.
    """
    sizes = _changes("image_size", patient.config, config)
    for holder, own in _holders(patient.processor):
        found = {key: value for key, value in vars(own).items() if key.endswith("size")}
        for old, new in sizes:
            if any(_states(value, old) for value in found.values()):
                yield from _scaled(holder, found, old, new)
                break
    for old, new in _changes("patch_size", patient.config, config):
        if getattr(patient.processor, "patch_size", None) == old[0] and new[0] == new[1] != old[0]:
            yield SetConfig("patch_size", new[0], "processor")


def _changes(name: str, before: Any, after: Any) -> list[tuple[Size, Size]]:
    found = (
        (stated(old, name), stated(new, name))
        for (_, old), (_, new) in zip(parts(before), parts(after), strict=True)
    )
    pairs = ((pair(old), pair(new)) for old, new in found if old is not None and new is not None)
    return list(dict.fromkeys((old, new) for old, new in pairs if old != new))


def _holders(processor: Any) -> Iterator[tuple[str, Any]]:
    """Give what prepares images: the processor itself, or parts of it; each with its key."""
    if processor is None:
        return
    yield "", processor
    for name in ("image_processor", "video_processor"):
        if vars(processor).get(name) is not None:
            yield name, vars(processor)[name]


def _entries(value: Any) -> dict[str, int]:
    """Give the sides that a stated size has, by name."""
    table = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    names = (*_SIDES, *_EDGES)
    return {name: table[name] for name in names if isinstance(table.get(name), int)}


def _states(value: Any, size: Size) -> bool:
    found = _entries(value)
    sides = all(found.get(name) == size[axis] for name, axis in _SIDES.items())
    return sides or any(found.get(name) == max(size) for name in _EDGES)


def _scaled(holder: str, found: dict[str, Any], old: Size, new: Size) -> Iterator[SetConfig]:
    ratios = [Fraction(after, before) for after, before in zip(new, old, strict=True)]
    for key, value in found.items():
        made = {
            name: round(number * (ratios[_SIDES[name]] if name in _SIDES else max(ratios)))
            for name, number in _entries(value).items()
        }
        if isinstance(value, dict) and made != value:
            yield SetConfig(joined(holder, key), {**value, **made}, "processor")
        elif not isinstance(value, dict):
            for name, number in made.items():
                if number != getattr(value, name):
                    yield SetConfig(joined(holder, key, name), number, "processor")
