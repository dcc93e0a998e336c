"""Families of vision-language models: where the connector is, and the contracts around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

from surgery.errors import SurgeryError
from surgery.operate.family import Family, Violation
from surgery_plugins.families.hosts import Fit, Host, fit_of, places
from surgery_plugins.families.pictures import (
    Pictures,
    connected,
    counted,
    given,
    named,
    positioned,
)
from surgery_plugins.families.prompts import below
from surgery_plugins.families.towers import Tower, text_width, tower_of

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient


@final
class VisionLanguage(Family):
    """Know the connectors of LLaVA, InternVL, Idefics2, Idefics3 and SmolVLM."""

    name: ClassVar[str] = "vision-language"

    def matches(self, model: nn.Module) -> bool:
        """Tell whether a model has a connector at a known place."""
        return bool(places(model))

    def hints(self, model: nn.Module) -> Mapping[str, frozenset[str]]:
        """Give each connector the role ``resampler``."""
        return {path: frozenset(("resampler",)) for path in places(model)}

    def contracts(self, patient: Patient) -> Iterable[Violation]:
        """Check tower, connector, language model, prompt and inputs against each other."""
        for path, (host, owner) in places(patient.model).items():
            module = patient.model.get_submodule(path)
            if hasattr(module, "out_tokens"):
                yield from _checked(
                    path, module, fit_of(patient.model, path, patient.config), patient
                )
            pictures = pictures_of(path, host, owner)
            if pictures is not None:
                yield from _native(pictures, host, owner, patient)


def _native(one: Pictures, host: Host, owner: Any, patient: Patient) -> Iterator[Violation]:
    """Check what does not depend on a surgery having placed the connector."""
    yield from positioned(one)
    yield from named(one, _ids(patient))
    if not hasattr(one.connector, "out_tokens"):
        yield from connected(one)
        yield from counted(one, _counts(one, host, owner, patient))
    yield from given(one, patient.inputs or {})


def pictures_of(path: str, host: Host, owner: Any) -> Pictures | None:
    """Read how a model turns images into tokens, or give None where its tower is not known.

    Args:
        path: the connector.
        host: the kind of model.
        owner: the module that holds tower and connector.
    """
    above = path.rpartition(".")[0]
    tower = tower_of(below(above, host.tower), getattr(owner, host.tower))
    if tower is None:
        return None
    connector, config = owner.get_submodule(host.connector), owner.config
    layers = getattr(config, "vision_feature_layer", -1)
    native = host.native(config)
    whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
    return Pictures(
        path,
        connector,
        tower,
        text_width(owner),
        joined=host.joined(config) * native.get("factor", 1),
        layers=len(layers) if isinstance(layers, list | tuple) else 1,
        kept=tower.before if whole else 0,
        latents=_latents(connector),
        image_id=("config.image_token_id", int(config.image_token_id)),
    )


def _latents(connector: Any) -> int | None:
    """Give how many tokens a connector gives whatever it gets: the rows of its latents."""
    for name, parameter in connector.named_parameters():
        if name.rpartition(".")[2] in ("latents", "queries", "query_tokens"):
            return int(parameter.shape[-2])
    return None


def _counts(one: Pictures, host: Host, owner: Any, patient: Patient) -> Mapping[str, Any]:
    """Give what is stated of the number of places, by where."""
    processor, counts = patient.processor, {}
    if host.slots and host.processor:
        counts[f"config.{host.slots}"] = getattr(owner.config, host.slots, None)
    if host.processor:
        counts[f"processor.{host.processor}"] = getattr(processor, host.processor, None)
    else:
        counts["processor"] = _by_patches(processor, one.tower)
    return counts


def _by_patches(processor: Any, tower: Tower) -> int | None:
    """Count the places for an image as LLaVA's processor does, from its own three attributes."""
    patch = getattr(processor, "patch_size", None)
    if not isinstance(patch, int) or tower.image is None:
        return None
    dropped = getattr(processor, "vision_feature_select_strategy", None) == "default"
    more = getattr(processor, "num_additional_image_tokens", 0)
    return (tower.image[0] // patch) * (tower.image[1] // patch) + int(more) - int(dropped)


def _ids(patient: Patient) -> Mapping[str, int | None]:
    """Give the id of the image token by those who know it beside the configuration."""
    processor, tokenizer = patient.processor, patient.tokenizer
    text = getattr(processor, "image_token", None)
    found = {"processor.image_token_id": getattr(processor, "image_token_id", None)}
    if isinstance(text, str) and tokenizer is not None:
        found[f"the tokenizer has {text}"] = tokenizer.convert_tokens_to_ids(text)
    return {where: one for where, one in found.items() if isinstance(one, int)}


def _checked(path: str, module: Any, fit: Fit, patient: Patient) -> Iterator[Violation]:
    for name, told in (("in_features", fit.in_features), ("out_features", fit.out_features)):
        found = getattr(module, name)
        if told is not None and told[0] != found:
            wanted = f"{told[0]} ({told[1]})"
            yield Violation(f"connector {name}", path, wanted, str(found), "rebuild the connector")
    if fit.tokens is None or fit.host is None:
        return
    try:
        slots = module.out_tokens(fit.tokens)
    except SurgeryError as error:
        yield Violation("connector tokens", path, error.wanted, error.found, error.instead)
        return
    for owner, key in ((patient.config, fit.host.slots), (patient.processor, fit.host.processor)):
        stated = getattr(owner, key, slots) if owner is not None and key else slots
        if stated != slots:
            where = f"{'config' if owner is patient.config else 'processor'}.{key}"
            instead = f"set {where} to {slots}, the number of tokens that the connector gives"
            yield Violation("places in the prompt", where, str(slots), str(stated), instead)
