"""Every architecture of transformers that can be built from its default config, on meta."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

DEPTH = 2
_COUNTS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "num_encoder_layers", "depth", "num_hidden_layers_text", "layers",
    "encoder_num_hidden_layers", "decoder_num_hidden_layers", "num_block_records",
    "text_num_hidden_layers",
)  # fmt: skip
_LISTS = ("layer_types", "mlp_layer_types", "attn_layer_types", "layers_block_type")


def model_types() -> list[str]:
    """Give the model types of transformers, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return sorted(MODEL_MAPPING_NAMES)


def class_names(model_type: str) -> Iterator[str]:
    """Give the names of a model type's base classes."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    names = MODEL_MAPPING_NAMES[model_type]
    yield from (names,) if isinstance(names, str) else names


def build(model_type: str, name: str, depth: int = DEPTH) -> nn.Module:
    """Build one architecture on meta, at most so many layers deep, or as its kinds need."""
    import transformers
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]()
    cls = getattr(transformers, name)
    shrink(config, depth)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return cls._from_config(config).eval()


def shrink(config: Any, depth: int = DEPTH) -> None:
    """Cut a configuration, and those inside it, to a few layers."""
    for key, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            shrink(value, depth)
        elif key in _LISTS and isinstance(value, list):
            kinds = list(dict.fromkeys(value))
            setattr(config, key, (kinds + value)[: max(depth, len(kinds))])
    longest = max(
        (len(v) for k in _LISTS if isinstance(v := getattr(config, k, None), list)), default=depth
    )
    for key in _COUNTS:
        value = getattr(config, key, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > longest:
            setattr(config, key, longest)


def family_module(name: str) -> Any:
    """Import the module that defines a class of transformers."""
    import transformers

    return importlib.import_module(getattr(transformers, name).__module__)
