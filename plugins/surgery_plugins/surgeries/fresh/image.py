"""What must be set in a configuration for another image size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery_plugins.surgeries.fresh.settings import joined, parts, parts_used, stated

if TYPE_CHECKING:
    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient

Size = tuple[int, int]
"""Height and width in pixels, or in patches."""

FEATURE_SIZES = ("backbone_feature_sizes", "memory_attention_rope_feat_sizes")
"""Configuration values of transformers that count feature cells, and so follow the image size."""


def pair(size: Any) -> Size:
    """Give a size as two numbers; one number stands for both."""
    if isinstance(size, int):
        return size, size
    first, second = size
    return int(first), int(second)


def parts_stating(name: str, sites: Sequence[Site], patient: Patient) -> dict[str, Any]:
    """Give the parts of the configuration that state a value, by key; all state the same.

    Args:
        name: ``image_size``, ``patch_size`` or the like; a list stands for height and width.
        sites: what is selected; configuration that it does not use is left out.
        patient: what is operated on.

    Raises:
        RefusedError: there are none, or they state different values.
    """
    used = parts_used(sites, patient) if patient.config is not None else {}
    found = {key: part for key, part in used.items() if stated(part, name) is not None}
    values = {joined(key, name): pair(stated(part, name)) for key, part in found.items()}
    if len(set(values.values())) != 1:
        raise RefusedError(
            name,
            f"one {name} in the configuration of what is selected",
            ", ".join(f"{key} = {value}" for key, value in values.items()) or "none",
            "select one tower with `at: {path: ...}`" if values else "select a whole tower",
        )
    return found


def image_settings(
    sites: Sequence[Site], patient: Patient, size: Size | None, patch: Size | None = None
) -> dict[str, Any]:
    """Give what the configuration must say for images or patches of a size, by dotted key.

    Args:
        sites: what is selected; configuration that it does not use stays.
        patient: what is operated on.
        size: height and width of the images in pixels, or None to keep them.
        patch: height and width of a patch in pixels, or None to keep it.

    Raises:
        RefusedError: the configuration states no single size, or the image is no whole number
            of patches or of feature cells.
    """
    found = parts_stating("image_size", sites, patient)
    old = pair(next(iter(found.values())).image_size)
    size = size or old
    settings = _sized("image_size", found, size)
    ratios = [Fraction(new, before) for new, before in zip(size, old, strict=True)]
    if patch is not None:
        cut = parts_stating("patch_size", sites, patient)
        settings |= _sized("patch_size", cut, patch)
        old_patch = pair(next(iter(cut.values())).patch_size)
        ratios = [r * Fraction(b, a) for r, b, a in zip(ratios, old_patch, patch, strict=True)]
    for key, part in found.items():
        check_multiple(size, patch or stated(part, "patch_size"), joined(key, "image_size"))
    return {**settings, **dict(_features(patient.config, found, (ratios[0], ratios[1])))}


def _sized(name: str, found: Mapping[str, Any], size: Size) -> dict[str, Any]:
    return {joined(key, name): _like(stated(part, name), size) for key, part in found.items()}


def grids(before: Any, after: Any) -> list[tuple[Size, Size]]:
    """Give the grids of patches that two configurations speak of: the old and the new one.

    Args:
        before: the first configuration.
        after: the second, of the same parts.
    """
    pairs = zip(parts(before), parts(after), strict=True)
    found = [(_grid(old), _grid(new)) for (_, old), (_, new) in pairs]
    return [(old, new) for old, new in found if old is not None and new is not None]


def _grid(part: Any) -> Size | None:
    size, patch = stated(part, "image_size"), stated(part, "patch_size")
    if size is None or patch is None:
        return None
    (height, width), (high, wide) = pair(size), pair(patch)
    return height // high, width // wide


def check_multiple(size: Size, patch: Any, where: str) -> None:
    """Check that an image is a whole number of patches.

    Raises:
        RefusedError: it is not; the nearest size that is, is named.
    """
    if patch is None:
        return
    cells = pair(patch)
    if any(length % cell for length, cell in zip(size, cells, strict=True)):
        near = [max(1, round(n / cell)) * cell for n, cell in zip(size, cells, strict=True)]
        grid = [n // cell for n, cell in zip(near, cells, strict=True)]
        raise RefusedError(
            where,
            f"whole patches of {cells[0]} x {cells[1]} pixels",
            f"{size[0]} x {size[1]} pixels",
            f"the nearest is {near[0]} x {near[1]}, a grid of {grid[0]} x {grid[1]}",
        )


def _like(old: Any, size: Size) -> Any:
    """Write a size as the configuration wrote the old one; two numbers where they differ."""
    return size[0] if isinstance(old, int) and size[0] == size[1] else list(size)


def _features(
    config: Any, found: Mapping[str, Any], ratios: tuple[Fraction, Fraction]
) -> Iterator[tuple[str, Any]]:
    """Scale what counts feature cells, in the parts that state the size and in those above."""
    for key, part in parts(config):
        if any(other == key or not key or other.startswith(key + ".") for other in found):
            for name in FEATURE_SIZES:
                if set(ratios) != {Fraction(1)} and stated(part, name) is not None:
                    yield joined(key, name), _scaled(stated(part, name), ratios, joined(key, name))


def _scaled(value: Any, ratios: tuple[Fraction, Fraction], where: str) -> Any:
    if not isinstance(value[0], int):
        return [_scaled(item, ratios, where) for item in value]
    exact = [n * ratio for n, ratio in zip(value, ratios, strict=True)]
    if any(number.denominator != 1 for number in exact):
        raise RefusedError(
            where,
            "a whole number of feature cells",
            " x ".join(f"{float(number):g}" for number in exact),
            "choose an image size that is a multiple of the largest stride",
        )
    return [int(number) for number in exact]
