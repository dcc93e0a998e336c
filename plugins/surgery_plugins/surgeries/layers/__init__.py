"""The surgery ``layers``."""

from __future__ import annotations

from surgery_plugins.surgeries.layers.surgery import Layers as Layers
