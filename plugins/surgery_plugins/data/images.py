"""The data set ``image-mask``: a folder of images and a folder of masks, paired by their names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgery.errors import MissingExtraError, PatientError
from surgery.operate.data import Data, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy")
"""Files that are taken; others in the folders are left alone."""


class ImageMask(Data):
    """Read images with a mask each, and what a file of notes says of them."""

    name: ClassVar[str] = "image-mask"

    images: str = Field(description="Folder of images, subfolders included.")
    masks: str = Field(description="Folder of masks, each named like its image.")
    prompts: str | None = Field(None, description="Folder of masks that are given as prompts.")
    value: int | None = Field(
        None, ge=0, description="The number of the object in masks; by default all but 0."
    )
    notes: str | None = Field(
        None,
        description="JSON file: for each name of an image, without suffix, a mapping that joins "
        "the sample, such as `{text: ...}`.",
    )
    text: str | None = Field(None, description="The text of samples that notes give none.")

    def open(self) -> Samples:
        """Pair the files of both folders.

        Raises:
            PatientError: a folder is missing or empty, files have no partner, or the notes are
                not of these images.
        """
        images = _files(self.images, "images")
        others = {"mask": _files(self.masks, "masks")}
        if self.prompts is not None:
            others["prompt"] = _files(self.prompts, "prompts")
        for kind, found in others.items():
            _check_paired(images, found, kind)
        notes = _notes(self.notes, images)
        if self.text is not None:
            notes = {name: {"text": self.text, **notes.get(name, {})} for name in images}
        return Pairs(tuple(sorted(images)), images, others, self.value, notes)


@dataclass(frozen=True)
class Pairs:
    """Images and masks by number, in the order of their names.

    Attributes:
        names: names of the samples: paths below the folder, without suffix.
        images: files of images by name.
        others: files of masks, and of prompts where there are any, by kind and name.
        value: the number of the object, or None for all but 0.
        notes: what else belongs to a sample, by name.
    """

    names: tuple[str, ...]
    images: Mapping[str, Path]
    others: Mapping[str, Mapping[str, Path]]
    value: int | None = None
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.names)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Read one image with its masks.

        Returns:
            ``image`` ``(height, width, 3)`` bytes; ``mask``, and ``prompt`` where there are
            any, ``(height, width)`` bools; ``name``; and the notes.

        Raises:
            ValueError: a file is no image, or a mask has another size than its image.
            MissingExtraError: pillow is needed and not installed.
        """
        name = self.names[number]
        image = image_of(self.images[name])
        masks = {kind: mask_of(files[name], self.value) for kind, files in self.others.items()}
        for kind, mask in masks.items():
            if mask.shape != image.shape[:2]:
                sizes = [" x ".join(map(str, one)) for one in (mask.shape, image.shape[:2])]
                file = self.others[kind][name]
                raise ValueError(f"{file}: {sizes[0]} pixels (height first), its image {sizes[1]}")
        return {**self.notes.get(name, {}), "name": name, "image": image, **masks}


def image_of(file: Path) -> NDArray[Any]:
    """Read an image as ``(height, width, 3)`` bytes, turned as its camera says.

    Raises:
        ValueError: the file is no image.
    """
    if file.suffix.lower() == ".npy":
        return _array(file)
    import numpy

    with _opened(file) as image:
        from PIL import ImageOps

        return numpy.array(ImageOps.exif_transpose(image).convert("RGB"))


def mask_of(file: Path, value: int | None) -> NDArray[Any]:
    """Read a mask as ``(height, width)`` bools; the numbers of a palette are its entries'.

    Raises:
        ValueError: the file is no mask, or is in colours where a number is asked for.
    """
    import numpy

    if file.suffix.lower() == ".npy":
        found = _array(file)
    else:
        with _opened(file) as image:
            found = numpy.array(image)
    if found.ndim == 2:
        chosen: NDArray[Any] = found != 0 if value is None else found == value
        return chosen
    if found.ndim != 3 or value is not None:
        raise ValueError(f"{file}: a mask of shape {found.shape}, not one number for each pixel")
    coloured: NDArray[Any] = (found[..., :3] != 0).any(-1)
    return coloured


def _array(file: Path) -> NDArray[Any]:
    import numpy

    found: NDArray[Any] = numpy.load(file, allow_pickle=False)
    return found


def _opened(file: Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        raise MissingExtraError(str(file), "pillow", "images") from None
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise ValueError(f"{file}: no image") from None


def _files(folder: str, kind: str) -> dict[str, Path]:
    """Give the files of a folder by path without suffix.

    Raises:
        PatientError: there are none, or two have one name.
    """
    root, found = Path(folder).expanduser(), dict[str, Path]()
    for file in sorted(root.rglob("*")):
        if file.suffix.lower() not in SUFFIXES:
            continue
        name = file.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise PatientError(str(file), "one file of each name", f"also {found[name].name}")
        found[name] = file
    if not found:
        what = "an empty one" if root.is_dir() else "no such folder"
        raise PatientError(f"train.data.{kind}: {folder}", f"a folder of {kind}", what)
    return found


def _check_paired(images: Mapping[str, Path], others: Mapping[str, Path], kind: str) -> None:
    """Refuse files without a partner; all are counted, and the first ones named.

    Raises:
        PatientError: there are some.
    """
    alone = _listed(f"without a {kind}", [images[n] for n in sorted(images.keys() - others.keys())])
    strange = _listed(
        "without an image", [others[n] for n in sorted(others.keys() - images.keys())]
    )
    if alone or strange:
        raise PatientError(
            "train.data", f"one {kind} for each image", "; ".join(filter(None, (alone, strange))),
            f"name each {kind} like its image; suffixes may differ",
        )  # fmt: skip


def _listed(what: str, files: Sequence[Path]) -> str:
    if not files:
        return ""
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return f"{len(files)} {what}: {', '.join(map(str, files[:5]))}{more}"


def _notes(file: str | None, images: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Read the notes, and check that they are of these images.

    Raises:
        PatientError: the file cannot be read, or says something of an image that is not there.
    """
    if file is None:
        return {}
    try:
        found = json.loads(Path(file).expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PatientError(f"train.data.notes: {file}", "a JSON file", str(error)) from None
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise PatientError(f"train.data.notes: {file}", "a mapping for each image", "another form")
    strange = sorted(found.keys() - images.keys())
    if strange:
        raise PatientError(f"train.data.notes: {file}", "names of images", repr(strange[0]))
    return found
