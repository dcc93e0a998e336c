"""The hooks that a plugin may implement. Each returns values; none is told to change anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from surgery.operate.attachment import Attachment
    from surgery.operate.data import Data
    from surgery.operate.doctor import Doctor
    from surgery.operate.engine import Engine
    from surgery.operate.exporter import Exporter
    from surgery.operate.family import Family
    from surgery.operate.importer import Importer
    from surgery.operate.initialiser import Initialiser
    from surgery.operate.objective import Objective
    from surgery.operate.source import Source
    from surgery.operate.surgery import Surgery

PROJECT = "surgery"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def surgery_surgeries() -> Sequence[type[Surgery]]:  # type: ignore[empty-body]
    """Give the surgeries that the plugin offers, as classes."""


@hookspec
def surgery_sources() -> Sequence[type[Source]]:  # type: ignore[empty-body]
    """Give the sources that the plugin offers, as classes."""


@hookspec
def surgery_families() -> Sequence[Family]:  # type: ignore[empty-body]
    """Give the model families whose roles and contracts the plugin knows."""


@hookspec
def surgery_initialisers() -> Sequence[type[Initialiser]]:  # type: ignore[empty-body]
    """Give the initialisers of adapters that the plugin offers, as classes."""


@hookspec
def surgery_attachments() -> Sequence[type[Attachment]]:  # type: ignore[empty-body]
    """Give the modules to be placed beside a model that the plugin offers, as classes."""


@hookspec
def surgery_doctors() -> Sequence[type[Doctor]]:  # type: ignore[empty-body]
    """Give the doctors that the plugin offers, as classes."""


@hookspec
def surgery_exporters() -> Sequence[Exporter]:  # type: ignore[empty-body]
    """Give the exporters that the plugin offers, as objects."""


@hookspec
def surgery_importers() -> Sequence[Importer]:  # type: ignore[empty-body]
    """Give the importers that the plugin offers, as objects."""


@hookspec
def surgery_objectives() -> Sequence[type[Objective]]:  # type: ignore[empty-body]
    """Give the objectives that the plugin offers, as classes."""


@hookspec
def surgery_data() -> Sequence[type[Data]]:  # type: ignore[empty-body]
    """Give the data sets that the plugin offers, as classes."""


@hookspec
def surgery_engines() -> Sequence[type[Engine]]:  # type: ignore[empty-body]
    """Give the engines of training that the plugin offers, as classes."""
