"""The surgery ``swap``."""

from __future__ import annotations

from surgery_plugins.surgeries.swap.surgery import Swap as Swap
