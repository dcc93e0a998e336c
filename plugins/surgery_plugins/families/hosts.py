"""Where vision-language models hold their connector, and what they give it and expect of it.

Data alone: one ``Host`` for each kind of model. Everything numeric is read off the model's own
configuration and modules, never from a table of constants.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import nn

Number = tuple[int, str]
"""A number and what tells it."""


@dataclass(frozen=True)
class Host:
    """How one kind of model uses its connector.

    Attributes:
        name: the family.
        types: class names of the module that owns the connector.
        connector: the attribute that holds it.
        tower: the attribute that holds the vision tower.
        kind: the kind of the connector that the model was made with.
        native: sizes of that connector which its shapes do not tell, from the configuration.
        joined: side of the blocks that the model joins before it calls the connector.
        slots: key of the configuration that says how many places an image has in a prompt.
        processor: attribute of the processor that says the same.
    """

    name: str
    types: frozenset[str]
    connector: str
    tower: str
    kind: str
    native: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    joined: Callable[[Any], int] = lambda config: 1
    slots: str | None = None
    processor: str | None = None


HOSTS = (
    Host(
        "llava",
        frozenset(("LlavaModel",)),
        connector="multi_modal_projector",
        tower="vision_tower",
        kind="mlp",
        native=lambda config: {"act": config.projector_hidden_act},
        slots="image_seq_length",
    ),
    Host(
        "internvl",
        frozenset(("InternVLModel",)),
        connector="multi_modal_projector",
        tower="vision_tower",
        kind="pixel_shuffle",
        native=lambda config: {"act": config.projector_hidden_act, "transposed": False},
        joined=lambda config: round(1 / config.downsample_ratio),
        slots="image_seq_length",
        processor="image_seq_length",
    ),
    Host(
        "idefics2",
        frozenset(("Idefics2Model",)),
        connector="connector",
        tower="vision_model",
        kind="perceiver",
        native=lambda config: {
            "heads": config.perceiver_config.resampler_n_heads,
            "kv_heads": config.perceiver_config.num_key_value_heads,
            "head_dim": config.perceiver_config.resampler_head_dim,
            "act": config.perceiver_config.hidden_act,
            "eps": config.perceiver_config.rms_norm_eps,
        },
        processor="image_seq_len",
    ),
    Host(
        "idefics3",
        frozenset(("Idefics3Model", "SmolVLMModel")),
        connector="connector",
        tower="vision_model",
        kind="pixel_shuffle",
        native=lambda config: {"factor": config.scale_factor, "transposed": False},
        processor="image_seq_len",
    ),
)  # fmt: skip
"""The models whose connectors can be told apart and checked."""


@dataclass(frozen=True)
class Fit:
    """What a model gives a connector at one path, and expects of it.

    Attributes:
        host: the kind of model, or None where it is not known.
        in_features: width of the tower's tokens.
        out_features: width of the language model's tokens.
        tokens: how many tokens the tower gives for one image of full size, or None.
        joined: side of the blocks that are joined before the connector is called.
        native: sizes of the connector that is there, and what tells them.
        root: True where the model's configuration is the patient's own.
    """

    host: Host | None = None
    in_features: Number | None = None
    out_features: Number | None = None
    tokens: int | None = None
    joined: int = 1
    native: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    root: bool = False


def places(model: nn.Module) -> dict[str, tuple[Host, nn.Module]]:
    """Give every place of a connector in a model: path, kind of host, and the module that owns it.

    Args:
        model: any module.
    """
    found: dict[str, tuple[Host, nn.Module]] = {}
    for path, module in model.named_modules():
        for host in _hosts_of(cast("Hashable", type(module))):
            if hasattr(module, host.connector):
                found[f"{path}.{host.connector}" if path else host.connector] = (host, module)
    return found


@cache
def _hosts_of(kind: Hashable) -> tuple[Host, ...]:
    """Give the hosts that a class or one of its bases is named as."""
    names = {cls.__name__ for cls in cast("type", kind).__mro__}
    return tuple(host for host in HOSTS if host.types & names)


def fit_of(model: nn.Module, path: str, config: Any = None) -> Fit:
    """Read what a model gives its connector and expects of it.

    Args:
        model: the whole model.
        path: the connector.
        config: the patient's configuration.
    """
    host, owner = places(model).get(path, (None, None))
    if host is None or owner is None:
        return Fit()
    own: Any = owner.config
    layers = getattr(own, "vision_feature_layer", -1)
    times = len(layers) if isinstance(layers, list | tuple) else 1
    many = f" x {times} layers" if times > 1 else ""
    where = "config.vision_config.hidden_size"
    return Fit(
        host,
        (own.vision_config.hidden_size * times, where + many),
        (own.get_text_config().hidden_size, "config.text_config.hidden_size"),
        tower_tokens(getattr(owner, host.tower), own),
        host.joined(own),
        {name: (value, f"config of {host.name}") for name, value in host.native(own).items()},
        type(config) is type(own),
    )


def tower_tokens(tower: nn.Module, config: Any) -> int | None:
    """Count the tokens that a tower hands on for one image of full size.

    They are the rows of the tower's position table, less the class token where the model drops
    it; None where the tower has no such table.

    Args:
        tower: the vision tower.
        config: the configuration of the model that owns it.
    """
    dropped = getattr(config, "vision_feature_select_strategy", None) == "default"
    for name, parameter in tower.named_parameters():
        if name.endswith(("position_embedding.weight", "position_embeddings")):
            return int(parameter.shape[-2]) - int(dropped)
    return None
