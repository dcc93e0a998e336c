"""Towers: which part of a model a site belongs to, by the inputs that reach it.

A model that takes ``decoder_...`` inputs has the towers ``decoder`` (what they reach) and
``encoder`` (the rest). Any other model has ``text``, ``vision`` and ``audio``: what text reaches is
``text``, even where other inputs reach it too; what is left and images reach is ``vision``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.anatomy.roles import Reading
from surgery.anatomy.site import Layer, Site

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


def inherited(sites: Sequence[Site]) -> Iterator[Site]:
    """Give sites with towers: those that no input reaches have that of all that is around them.

    So tables of positions and norms belong to a tower too; what stands between towers does not.
    """
    around: dict[str, set[str]] = {}
    for path, tower in {(_above(site.path), site.tower) for site in sites if site.tower}:
        for above in _upwards(path):
            around.setdefault(above, set()).add(tower)
    for site in sites:
        near = next((around[p] for p in _upwards(site.path) if p in around), set())
        alone = site.tower is None and len(near) == 1
        yield replace(site, tower=next(iter(near))) if alone else site


def _above(path: str) -> str:
    return path.rpartition(".")[0]


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = _above(path)
    yield ""


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
