"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("surgery", deadline=None)  # shared machines are slow at times
settings.load_profile("surgery")
