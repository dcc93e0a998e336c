"""The source ``example/perceptron``: a folder with ``perceptron.json`` and safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgery import Patient, hookimpl
from surgery.errors import PatientError
from surgery.operate.source import Source

if TYPE_CHECKING:
    from torch import nn

OUTLINE, WEIGHTS = "perceptron.json", "model.safetensors"


class PerceptronSource(Source):
    """Read a multilayer perceptron whose widths stand in a file."""

    name: ClassVar[str] = "example/perceptron"
    explicit: ClassVar[bool] = True

    path: str = Field(description="Folder with perceptron.json and model.safetensors.")

    def build(self) -> Patient:
        """Build the structure on meta."""
        import torch

        widths = self._widths()
        with torch.device("meta"):
            return Patient(_model(widths), inputs={"input": torch.zeros(1, widths[0])})

    def load(self) -> Patient:
        """Read the weights."""
        import torch
        from safetensors.torch import load_file

        widths = self._widths()
        model = _model(widths).eval()
        try:
            model.load_state_dict(load_file(Path(self.path, WEIGHTS)))
        except (OSError, RuntimeError) as error:
            found = " ".join(str(error).split())
            raise PatientError(f"{self.path}/{WEIGHTS}", f"weights of {widths}", found) from None
        return Patient(model, inputs={"input": torch.zeros(1, widths[0])})

    def weights(self) -> Mapping[str, Path]:
        """Give the one file."""
        return {WEIGHTS: Path(self.path, WEIGHTS)}

    def companions(self) -> Mapping[str, Path]:
        """Give the file from which the structure is built: it travels with whole outputs."""
        return {OUTLINE: Path(self.path, OUTLINE)}

    def _widths(self) -> list[int]:
        file, wanted = Path(self.path, OUTLINE), 'a file such as {"widths": [8, 16, 3]}'
        try:
            widths = json.loads(file.read_text("utf-8"))["widths"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PatientError(str(file), wanted, f"{type(error).__name__}: {error}") from None
        if not (isinstance(widths, list) and len(widths) > 1 and all(map(_is_width, widths))):
            raise PatientError(str(file), wanted, repr(widths))
        return widths


def _is_width(value: object) -> bool:
    return type(value) is int and value > 0


def _model(widths: Sequence[int]) -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = []
    for rows, columns in zip(widths[1:], widths[:-1], strict=True):
        layers += [nn.Linear(columns, rows), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@hookimpl
def surgery_sources() -> Sequence[type[Source]]:
    """Offer the source."""
    return [PerceptronSource]
