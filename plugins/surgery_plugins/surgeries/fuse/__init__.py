"""The surgeries ``fuse`` and ``unfuse``."""

from __future__ import annotations

from surgery_plugins.surgeries.fuse.fuse import Fuse as Fuse
from surgery_plugins.surgeries.fuse.unfuse import Unfuse as Unfuse
