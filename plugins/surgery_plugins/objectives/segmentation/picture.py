"""How images are prepared: size, mean and deviation, from options, processor or configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from surgery.operate.patient import Patient

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

Numbers: TypeAlias = tuple[float, float, float]
"""One number for red, green and blue."""

_SIZES = (
    "prompt_encoder_config.image_size",
    "vision_config.backbone_config.image_size",
    "vision_config.image_size",
    "image_size",
)
"""Where configurations say the size of images, the most telling first."""

_COLOURS: dict[str, tuple[Numbers, Numbers]] = {
    "sam2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "sam3": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation that the published processors use, by how ``model_type`` begins."""


@dataclass(frozen=True)
class Picture:
    """What a model's images are like.

    Attributes:
        size: height and width in pixels.
        mean: of each colour, 0 to 1.
        std: of each colour, 0 to 1.
    """

    size: Size
    mean: Numbers
    std: Numbers


def picture_of(
    patient: Patient,
    image_size: int | Size | None,
    mean: Numbers | None,
    std: Numbers | None,
) -> Picture:
    """Say how a patient's images are prepared; what is given goes first.

    Args:
        patient: its processor and configuration are read, not its model.
        image_size: pixels, or height and width, or None.
        mean: of each colour, or None.
        std: of each colour, or None.

    Raises:
        ValueError: neither options nor patient say it.
    """
    size = _size(image_size if image_size is not None else _stated(patient.config))
    colours = _colours(patient)
    return Picture(size, mean or _known(colours, 0, "mean"), std or _known(colours, 1, "std"))


def _stated(config: Any) -> Any:
    for path in _SIZES:
        found = config
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise ValueError("no size of images in the configuration; write `image_size`")


def _size(stated: Any) -> Size:
    """Give height and width; two unlike sides of a configuration have no sure order."""
    if isinstance(stated, int):
        return stated, stated
    first, second = stated
    if isinstance(stated, list) and first != second:
        raise ValueError(
            f"the configuration's image size {stated} does not say which side is the height; "
            "write `image_size: [HEIGHT, WIDTH]`"
        )
    return int(first), int(second)


def _colours(patient: Patient) -> tuple[Numbers, Numbers] | None:
    """Give mean and deviation from the processor, or as the family's processor has them."""
    processor = getattr(patient.processor, "image_processor", patient.processor)
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is not None and std is not None:
        return _three(mean), _three(std)
    kind = str(getattr(patient.config, "model_type", ""))
    return next((both for name, both in _COLOURS.items() if kind.startswith(name)), None)


def _three(numbers: Any) -> Numbers:
    red, green, blue = map(float, numbers)
    return red, green, blue


def _known(colours: tuple[Numbers, Numbers] | None, which: int, name: str) -> Numbers:
    if colours is None:
        raise ValueError(f"no processor says the {name} of images; write `{name}: [R, G, B]`")
    return colours[which]
