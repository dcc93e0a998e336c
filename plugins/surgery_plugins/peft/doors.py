"""The two doors to PEFT: what a recipe writes beside its checkpoint, and what is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from surgery.errors import RecipeError, RefusedError
from surgery.operate.exporter import Exporter
from surgery.operate.importer import Imported, Importer

if TYPE_CHECKING:
    from surgery.operate.journal import Journal
    from surgery.operate.operation import Operation
    from surgery.operate.patient import Patient


class PeftExporter(Exporter):
    """Write a folder that ``PeftModel.from_pretrained`` loads."""

    name: ClassVar[str] = "peft"

    def export(self, operation: Operation, journal: Journal, folder: Path) -> None:
        """Write the model's adapters: ``default``, or the only one, here, others in folders below.

        Raises:
            RefusedError: there is none, or PEFT cannot express what was done.
        """
        from surgery_plugins.peft.beginning import Beginning
        from surgery_plugins.peft.changes import trained_whole
        from surgery_plugins.peft.export import export_adapter
        from surgery_plugins.surgeries.lora.adapters import adapter_names

        model = operation.patient.model
        names = adapter_names(model)
        if not names:
            raise RefusedError("output.also: peft", "an adapter", "none", "add a `lora` step")
        trained = trained_whole(operation, journal)
        base = journal.base.get("options", {}).get("path") or journal.base.get("source", "")
        for name in names:
            here = folder if name == "default" or len(names) == 1 else folder / name
            here.mkdir(exist_ok=True)
            export_adapter(
                model, name, here, base=str(base), trained=trained, begin=Beginning(operation)
            )


class PeftImporter(Importer):
    """Read LoRA adapters that PEFT wrote, each in a folder of its own."""

    name: ClassVar[str] = "peft"

    def read(self, folders: Sequence[Path], patient: Patient) -> Imported:
        """Say an adapter, or several, in surgeries; the names are those of the folders.

        A single adapter is called ``default``.

        Raises:
            PatientError: a folder is damaged, or made for another base.
            RefusedError: it holds what no surgery can do.
        """
        from surgery_plugins.peft.read import read_adapters

        named = {"default": folders[0]} if len(folders) == 1 else _by_name(folders)
        return read_adapters(named, patient.model, patient.inputs)


def _by_name(folders: Sequence[Path]) -> dict[str, Path]:
    """Give each folder a name that an adapter can have: its own, letters and digits alone."""
    found: dict[str, Path] = {}
    for folder in folders:
        name = re.sub(r"^[0-9]+|[^a-z0-9]", "", folder.resolve().name.lower()) or "adapter"
        if name in found:
            raise RecipeError(
                str(folder), "folders of different names", f"{name!r} twice", "rename one"
            )
        found[name] = folder
    return found
