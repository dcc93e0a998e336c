"""The surgery ``lean``."""

from __future__ import annotations

from surgery_plugins.surgeries.lean.surgery import Lean as Lean
