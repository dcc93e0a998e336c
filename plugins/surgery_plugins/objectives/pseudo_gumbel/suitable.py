"""Say why a patient cannot be trained so, before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgery_plugins.objectives.pseudo_gumbel.encode import pictures_of, texts_of
from surgery_plugins.objectives.pseudo_gumbel.prompts import REGION, allowed_of, prompts_of, seg_of
from surgery_plugins.objectives.pseudo_gumbel.region import side_of
from surgery_plugins.objectives.vision.slots import Slots, slots_of

if TYPE_CHECKING:
    from surgery.operate.patient import Patient
    from surgery_plugins.objectives.pseudo_gumbel.objective import PseudoGumbel


def unsuitable(objective: PseudoGumbel, patient: Patient) -> str | None:
    """Give the first reason against a patient, or None."""
    try:
        return next(_reasons(objective, patient), None)
    except ValueError as error:
        return str(error)


def _reasons(objective: PseudoGumbel, patient: Patient) -> Iterator[str]:
    from surgery_plugins.modules.grounded import GroundedVlm

    model = patient.model
    if not isinstance(model, GroundedVlm):
        yield (
            f"it is a {type(model).__name__}, which has no way from [SEG] to a mask; join a "
            "vision-language model and a SAM 2 with surgery_plugins.modules.grounded.joined"
        )
    if patient.tokenizer is None:
        yield "it has no tokenizer; put its files beside the weights"
    slots = slots_of(patient, patient.config.vlm_config)
    pictures_of(objective, patient)
    region = side_of(slots.count) ** 2 if REGION in objective.ask else 0
    seg = seg_of(patient.tokenizer, objective.seg)
    prompts_of(texts_of(objective), patient, slots, region)
    yield from _tables(patient, slots, seg)
    yield from _contracts(patient)
    yield from _trained(model)


def _tables(patient: Patient, slots: Slots, seg: int) -> Iterator[str]:
    """The tables must have rows for the tokens, and captions something to be made of."""
    model: Any = patient.model
    rows = int(model.get_input_embeddings().weight.shape[0])
    for name, number in (("image token", slots.token), ("token of masks", seg)):
        if number >= rows:
            yield (
                f"its {name} has the number {number}, and its table of tokens {rows} rows: the "
                "tokenizer was changed alone; `use: tokens` changes both"
            )
    if len(allowed_of(patient.tokenizer, rows)) < 2:
        yield "its tokenizer has no tokens that captions could be made of"


def _contracts(patient: Patient) -> Iterator[str]:
    """Tower, connector, language model and stated counts must fit each other."""
    from surgery.flow.prove import violations
    from surgery.hooks.registry import registry

    for family, found in violations(patient, registry().families()):
        if isinstance(found, Exception):
            yield f"family {family} cannot read it: {found}"
        else:
            yield from map(str, found)


def _trained(model: Any) -> Iterator[str]:
    """Something before the caption must be trained: else no gradient goes through it."""
    if not any(parameter.requires_grad for parameter in model.vlm.parameters()):
        yield (
            "nothing of its vision-language model is trained, and no gradient would go through the "
            "caption; add LoRA to the language model, or train the connector"
        )
