"""The data set ``image-text``: lines of JSON that name images, read with the texts beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from surgery.errors import PatientError
from surgery.operate.data import Data, Samples
from surgery_plugins.data.files import files_of, lines_of, records, stretches
from surgery_plugins.data.images import image_of, mask_of
from surgery_plugins.data.jsonl import object_of


class ImageText(Data):
    """Read lines of JSON, and the images and masks whose files they name."""

    name: ClassVar[str] = "image-text"

    path: str | list[str] = Field(description="One or several JSONL files, or globs.")
    folder: str = Field(description="Folder that the names of images and masks are below.")
    images: list[str] = Field(["image"], description="Keys whose values name images.")
    masks: list[str] = Field([], description="Keys whose values name masks.")

    def open(self) -> Samples:
        """Find where the lines begin.

        Raises:
            PatientError: the files or the folder are missing.
        """
        files = files_of(self.path, "train.data: image-text")
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise PatientError(f"train.data.folder: {self.folder}", "a folder", "none")
        lines = records((stretches(file, lines_of), object_of) for file in files)
        return Pictured(lines, folder.resolve(), tuple(self.images), tuple(self.masks))


@dataclass(frozen=True)
class Pictured:
    """Lines with the images and masks that they name.

    Attributes:
        lines: the lines.
        folder: where the files are.
        images: keys of images.
        masks: keys of masks.
    """

    lines: Samples
    folder: Path
    images: tuple[str, ...]
    masks: tuple[str, ...]

    def __len__(self) -> int:
        """Give the number of lines."""
        return len(self.lines)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Give one line, with arrays in place of the names of files.

        Raises:
            ValueError: the line names no file below the folder, or the file is no image.
        """
        line = dict(self.lines[number])
        for key in (*self.images, *self.masks):
            file = self._file(line, key)
            line[key] = mask_of(file, None) if key in self.masks else image_of(file)
        return line

    def _file(self, line: Mapping[str, Any], key: str) -> Path:
        name = line.get(key)
        if not isinstance(name, str):
            raise ValueError(f"expected the name of a file under {key!r}, got {name!r}")
        file = (self.folder / name).resolve()
        if not file.is_relative_to(self.folder):
            raise ValueError(f"expected a file below {self.folder}, got {name!r}")
        if not file.is_file():
            raise ValueError(f"{file}: no such file")
        return file
