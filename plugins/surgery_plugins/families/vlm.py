"""Families of vision-language models: where the connector is, and the contracts around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

from surgery.errors import SurgeryError
from surgery.operate.family import Family, Violation
from surgery_plugins.families.hosts import Fit, fit_of, places

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
        """Check widths and the number of places in a prompt, of connectors that a surgery placed.

        A connector of the model's own is what its configuration says already.
        """
        for path in places(patient.model):
            module = patient.model.get_submodule(path)
            if hasattr(module, "out_tokens"):
                yield from _checked(
                    path, module, fit_of(patient.model, path, patient.config), patient
                )


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
