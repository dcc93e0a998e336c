"""The tiny language model, the local plugin and the recipe of the tests of training."""

from __future__ import annotations

from tests.training.conftest import base, known

__all__ = ["base", "known"]
