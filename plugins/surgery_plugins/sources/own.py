"""Models of this distribution that are written and read as those of transformers are."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_CONFIGS = {"grounded-vlm": ("surgery_plugins.modules.grounded", "GroundedConfig")}
_MODELS = {"GroundedVlm": "surgery_plugins.modules.grounded"}


def own_config(model_type: Any) -> Any:
    """Give the configuration's class of a model type, or None where it is not one of these."""
    found = _CONFIGS.get(model_type) if isinstance(model_type, str) else None
    return None if found is None else getattr(import_module(found[0]), found[1])


def own_model(name: str) -> Any:
    """Give the class of a model, or None where it is not one of these."""
    return getattr(import_module(_MODELS[name]), name) if name in _MODELS else None
