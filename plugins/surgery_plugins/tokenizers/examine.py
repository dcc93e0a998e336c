"""Examine a patient's tokenizer together with its model: one list of checks for all who ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery_plugins.tokenizers import ids, template, values
from surgery_plugins.tokenizers.contexts import context_findings
from surgery_plugins.tokenizers.copies import differences, reloaded
from surgery_plugins.tokenizers.findings import check_of
from surgery_plugins.tokenizers.tables import Table, tables_of

if TYPE_CHECKING:
    from surgery.checks.check import Check
    from surgery.operate.patient import Patient

MANY = 64
"""Added tokens above which only some are looked for in texts, where none are asked for."""


def examine(
    patient: Patient,
    required: frozenset[str] | None = None,
    others: Mapping[str, Any] | None = None,
) -> Iterator[Check]:
    """Check a tokenizer, alone and against its model.

    Args:
        patient: with a tokenizer; its model may be on meta.
        required: tokens that must be right; mistakes of others are warnings. None for all.
        others: further tokenizers by name, which must give the same ids.
    """
    from surgery.errors import SurgeryError

    tokens = sorted(required) if required is not None else looked_for(patient.tokenizer)
    yield from _alone(patient.tokenizer, tokens, required)
    yield _agree(patient, tokens, required, dict(others or {}))
    try:
        tables = tables_of(patient)
    except SurgeryError as error:
        from surgery.checks.check import skipped

        yield skipped("tokens: rows", error.wanted + ": " + error.found)
        return
    yield from _with_model(patient, tables, tokens, required)


def looked_for(tokenizer: Any) -> list[str]:
    """Give the added tokens, the last ones where they are many."""
    return list(tokenizer.get_added_vocab())[-MANY:]


def _alone(tokenizer: Any, tokens: list[str], required: frozenset[str] | None) -> Iterator[Check]:
    from surgery.checks.check import skipped

    seen = context_findings(tokenizer, tokens)
    yield check_of("tokens: one id each", seen, required, f"{len(tokens)} tokens in 5 contexts")
    copy = reloaded(tokenizer)
    again = [
        *context_findings(copy, tokens, " in a saved copy"),
        *differences(tokenizer, copy, "a saved copy", tokens),
    ]
    yield check_of("tokens: a saved copy is equal", again, required, f"{len(tokenizer)} tokens")
    yield check_of("tokens: flags", ids.flag_findings(tokenizer), required)
    yield check_of("tokens: no holes", ids.hole_findings(tokenizer), required)
    if tokenizer.chat_template is None:
        yield skipped("tokens: chat template", "there is none")
    else:
        yield check_of("tokens: chat template", template.template_findings(tokenizer), required)


def _agree(
    patient: Patient, tokens: Sequence[str], required: frozenset[str] | None, others: dict[str, Any]
) -> Check:
    from surgery.checks.check import skipped

    own = getattr(patient.processor, "tokenizer", None)
    others = {"the processor": own, **others} if own is not None else others
    if not others:
        return skipped("tokens: one tokenizer", "there is no second one to compare with")
    seen = [
        finding
        for name, other in others.items()
        if other is not patient.tokenizer
        for finding in differences(patient.tokenizer, other, name, tokens)
    ]
    return check_of("tokens: one tokenizer", seen, required, ", ".join(others))


def _with_model(
    patient: Patient, tables: list[Table], tokens: list[str], required: frozenset[str] | None
) -> Iterator[Check]:
    rows = f"{len(patient.tokenizer)} tokens, {tables[0].rows} rows"
    yield check_of("tokens: rows", ids.row_findings(patient, tables), required, rows)
    yield check_of("tokens: ties", ids.tie_findings(patient, tables), required)
    yield check_of("tokens: ids agree", ids.agreement_findings(patient), required)
    yield check_of("tokens: one meaning each", ids.meaning_findings(patient), required)
    yield check_of("tokens: padding side", ids.side_findings(patient), required)
    yield _values(patient, tables, tokens, required)


def _values(
    patient: Patient, tables: list[Table], tokens: list[str], required: frozenset[str] | None
) -> Check:
    from surgery.checks.check import skipped

    name = "tokens: values of rows"
    if values.shown_weight(patient.model, tables[0].name).is_meta:
        return skipped(name, "no weights were read")
    return check_of(name, values.value_findings(patient, tables, tokens), required)
