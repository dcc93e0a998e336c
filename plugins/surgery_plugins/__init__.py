"""The built-in plugin: it reaches the core through entry points, as a stranger's does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.hooks.specs import hookimpl

if TYPE_CHECKING:
    from surgery.operate.exporter import Exporter
    from surgery.operate.source import Source
    from surgery.operate.surgery import Surgery


@hookimpl
def surgery_surgeries() -> Sequence[type[Surgery]]:
    """Give the built-in surgeries."""
    from surgery_plugins.surgeries.freeze import Freeze, Unfreeze
    from surgery_plugins.surgeries.lora import Lora

    return (Freeze, Unfreeze, Lora)


@hookimpl
def surgery_sources() -> Sequence[type[Source]]:
    """Give the built-in sources."""
    from surgery_plugins.sources.demo import DemoSource
    from surgery_plugins.sources.hf import HfSource

    return (HfSource, DemoSource)


@hookimpl
def surgery_exporters() -> Sequence[Exporter]:
    """Give the built-in exporters."""
    from surgery_plugins.peft.export import PeftExporter

    return (PeftExporter(),)
