"""Towers: which part of a model a site belongs to, by the inputs that reach it.

A model that takes ``decoder_...`` inputs has the towers ``decoder`` (what they reach) and
``encoder`` (the rest). Any other model has ``text``, ``vision`` and ``audio``: what text reaches is
``text``, even where other inputs reach it too; what is left and images reach is ``vision``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from surgery.anatomy.roles import Reading
from surgery.anatomy.site import Layer

_SENSES = (
    ("text", ("input_ids", "inputs_embeds", "token")),
    ("vision", ("pixel", "image")),
    ("audio", ("input_features", "input_values", "audio")),
)


@dataclass(frozen=True)
class Towers:
    """Know the tower of each container of layers, and whether the model is an encoder-decoder."""

    containers: Mapping[str, str]
    paired: bool

    def of(self, layer: Layer | None, reading: Reading | None) -> str | None:
        """Give the tower of a site: its layer's, else the one of its own inputs."""
        if layer is not None:
            return self.containers.get(layer.container)
        return tower_of(_modes(reading), self.paired) if reading else None


def towers_of(readings: Mapping[str, Reading], layers: Mapping[str, Layer]) -> Towers:
    """Find the tower of each container of layers."""
    modes: dict[str, set[str]] = {}
    everything: set[str] = set()
    containers = {layer.container for layer in layers.values()}
    for name, reading in readings.items():
        own = _modes(reading)
        everything |= own
        for container in containers:
            if name.startswith(container + "."):
                modes.setdefault(container, set()).update(own)
    paired = any(mode.startswith("decoder_") for mode in everything)
    found = {c: t for c, own in modes.items() if (t := tower_of(own, paired))}
    return Towers(found, paired)


def tower_of(modes: set[str], paired: bool) -> str | None:
    """Give the tower of something that these inputs reach."""
    given = modes - {"learned", "constant"}
    if paired and given:
        return "decoder" if any(mode.startswith("decoder_") for mode in given) else "encoder"
    for tower, words in _SENSES:
        if any(word in mode for mode in given for word in words):
            return tower
    return None


def _modes(reading: Reading | None) -> set[str]:
    return {mode for origin in reading.origins for mode in origin.modes} if reading else set()
