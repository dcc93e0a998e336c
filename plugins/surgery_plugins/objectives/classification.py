"""The objective ``classification``: which of several labels a text has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgery.errors import RefusedError, did_you_mean
from surgery.operate.objective import Batch, Objective, Sample, Step
from surgery_plugins.objectives.features import Pool, pooled
from surgery_plugins.objectives.tokens import TooLong, encoded, padded, text_in

if TYPE_CHECKING:
    from random import Random

    from torch import Tensor, nn

    from surgery.operate.patient import Patient


class Classification(Objective):
    """Classify texts, or pairs of texts, with the model's head or one that a surgery placed."""

    name: ClassVar[str] = "classification"
    better: ClassVar[Mapping[str, str]] = {"loss": "min", "accuracy": "max"}

    text: str = Field("text", description="Key of the text.")
    pair: str | None = Field(None, description="Key of a second text that belongs to it.")
    label: str = Field("label", description="Key of the label: its name or its number.")
    labels: list[str] | None = Field(
        None, min_length=2, description="Names in order; by default those of the config."
    )
    output: str = Field(
        "logits", description="Output of the model that is judged, such as an attached module's."
    )
    pool: Pool | None = Field(
        None, description="Where the output has one row for each token: mean, first or last."
    )
    max_tokens: int | None = Field(None, ge=3, description="Tokens of one sample, at most.")
    too_long: TooLong = Field("refuse", description="Longer samples fail, or are cut.")

    def refuse(self, patient: Patient) -> str | None:
        """Refuse a patient without tokenizer, labels, or a head with one output for each."""
        if patient.tokenizer is None:
            return "it has no tokenizer"
        names = self._names(patient)
        if len(names) < 2:
            return f"it has {len(names)} labels; write `labels:`, or give it more with `use: head`"
        if self.output != "logits":
            return _no_head(patient.model, self.output, len(names))
        if any(_outputs(module) == len(names) for module in patient.model.modules()):
            return None
        return (
            f"it has no layer with {len(names)} outputs, one for each label; choose a class with a "
            "head with `architecture:`, or give it one with `use: head` or `use: attach`"
        )

    def encode(self, sample: Sample, patient: Patient, random: Random) -> Mapping[str, Any]:
        """Turn a text into tokens and a label."""
        import torch

        texts = (text_in(sample, self.text), *([text_in(sample, self.pair)] if self.pair else []))
        number = _number(sample.get(self.label), self._names(patient), self.label)
        row = encoded(texts, patient, self.max_tokens, self.too_long)  # type: ignore[arg-type]
        return {"row": row, "label": torch.tensor(number)}

    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
        """Pad texts to the longest."""
        import torch

        inputs = padded([one["row"] for one in encoded], patient)
        return {"inputs": inputs, "labels": torch.stack([one["label"] for one in encoded])}

    def weight(self, batch: Batch) -> float:
        """Count samples."""
        return float(len(batch["labels"]))

    def step(self, model: nn.Module, batch: Batch) -> Step:
        """Give the cross entropy of the labels."""
        from torch.nn.functional import cross_entropy

        labels: Tensor = batch["labels"]
        logits = self._logits(model, batch["inputs"]).float()
        right = (logits.detach().argmax(-1) == labels).sum()
        metrics = {"accuracy": (right, len(labels))}
        return Step(cross_entropy(logits, labels), metrics, (0.0, None))

    def _logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give texts x labels.

        Where a linear head reads every token, the mean of its outputs is what it makes of the mean.
        """
        found = model(**inputs)
        logits: Tensor | None = found.get(self.output) if isinstance(found, Mapping) else None
        if self.pool is not None and logits is not None and logits.ndim == 3:
            return pooled(logits, inputs["attention_mask"], self.pool)
        if logits is None or logits.ndim != 2:
            shape = "none" if logits is None else f"shape {tuple(logits.shape)}"
            raise RefusedError(
                "train.objective", f"an output {self.output} of texts x labels", shape,
                "write `pool: mean` where it has one row for each token",
            )  # fmt: skip
        return logits

    def _names(self, patient: Patient) -> list[str]:
        if self.labels is not None:
            return self.labels
        table = getattr(patient.config, "id2label", None) or {}
        return [str(table[number]) for number in sorted(table)]


def _outputs(module: nn.Module) -> int | None:
    return getattr(module, "out_features", None)


def _no_head(model: nn.Module, path: str, labels: int) -> str | None:
    names = [name for name, _ in model.named_modules() if name]
    if path not in names:
        return f"it has no module {path}; {did_you_mean(path, names)}"
    last = [n for m in model.get_submodule(path).modules() if (n := _outputs(m)) is not None]
    if last and last[-1] != labels:
        return f"{path} has {last[-1]} outputs, and there are {labels} labels"
    return None


def _number(label: object, names: Sequence[str], key: str) -> int:
    """Give the number of a label.

    Raises:
        ValueError: it is none of the labels.
    """
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    hint = f"; {did_you_mean(label, names)}" if isinstance(label, str) else ""
    raise ValueError(f"expected one of {len(names)} labels under {key!r}, got {label!r}{hint}")
