"""The doctor ``tokenizer``: what ``surgery doctor tokenizer`` looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgery.errors import PatientError
from surgery.operate.doctor import Doctor

if TYPE_CHECKING:
    from surgery.checks.check import Check
    from surgery.operate.patient import Patient


class TokenizerDoctor(Doctor):
    """Examine a tokenizer together with its model: ids, contexts, copies, rows, template."""

    name: ClassVar[str] = "tokenizer"
    cure: ClassVar[str] = "change tokens, rows and ids together, with the surgery `tokens`"

    token: tuple[str, ...] = Field(
        default=(), description="A token that must be one id everywhere; else all added ones."
    )
    text: tuple[str, ...] = Field(
        default=(), description="A text to be one id, such as a stop word; others are listed."
    )
    also: tuple[str, ...] = Field(
        default=(), description="A folder of another tokenizer that must give the same ids."
    )
    samples: str = Field(default="", description="A file of training texts, one in each line.")
    max_length: int = Field(default=0, ge=0, description="Ids to which samples are cut.")

    def applies(self, patient: Patient) -> bool:
        """Examine whatever has a tokenizer before it is trained."""
        return patient.tokenizer is not None

    def examine(self, patient: Patient, folder: Path | None) -> Iterable[Check]:
        """Examine the patient's tokenizer.

        Raises:
            PatientError: it has none, or a folder under ``also`` has none.
        """
        if patient.tokenizer is None:
            raise PatientError(str(folder or "patient"), "a patient with a tokenizer", "none")
        return self._checks(patient, folder)

    def _checks(self, patient: Patient, folder: Path | None) -> Iterator[Check]:
        from surgery_plugins.tokenizers.contexts import wrong_literals
        from surgery_plugins.tokenizers.examine import examine
        from surgery_plugins.tokenizers.findings import check_of

        required = frozenset(self.token) if self.token else None
        others = {place: self._other(place) for place in self.also}
        if folder is not None:
            others[str(folder)] = self._other(str(folder))
        yield from examine(patient, required, others)
        yield self._sampled(patient, required)
        if self.text:
            seen = wrong_literals(patient.tokenizer, self.text)
            yield check_of("tokens: texts", seen, required, f"{len(self.text)} texts, one id each")

    def _sampled(self, patient: Patient, required: frozenset[str] | None) -> Check:
        from surgery.checks.check import skipped
        from surgery_plugins.tokenizers.examine import looked_for
        from surgery_plugins.tokenizers.findings import check_of
        from surgery_plugins.tokenizers.samples import sample_findings

        if not self.samples:
            return skipped("tokens: samples", "none were given")
        texts = Path(self.samples).read_text("utf-8").splitlines()
        tokens = self.token or tuple(looked_for(patient.tokenizer))
        seen = sample_findings(patient.tokenizer, texts, tokens, self.max_length)
        return check_of("tokens: samples", seen, required, f"{len(texts)} samples")

    def _other(self, place: str) -> object:
        from surgery_plugins.tokenizers.copies import other_tokenizer

        found = other_tokenizer(Path(place))
        if found is None:
            raise PatientError(place, "a folder with a tokenizer", "none")
        return found
