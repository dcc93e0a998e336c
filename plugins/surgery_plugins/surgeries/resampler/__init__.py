"""The surgery ``resampler``."""

from __future__ import annotations

from surgery_plugins.surgeries.resampler.surgery import Resampler as Resampler
