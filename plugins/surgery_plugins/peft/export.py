"""Write the adapters of a model in PEFT's format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.errors import RefusedError
from surgery.operate.exporter import Exporter
from surgery_plugins.peft.forms import Form, forms_of

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


class PeftExporter(Exporter):
    """Write a folder that ``PeftModel.from_pretrained`` loads."""

    name: ClassVar[str] = "peft"

    def export(self, model: nn.Module, base: dict[str, Any], folder: Path) -> None:
        """Write the model's one adapter.

        Raises:
            RefusedError: there is none or more than one, or PEFT cannot express it.
        """
        from surgery_plugins.surgeries.lora.adapters import adapter_names

        names = adapter_names(model)
        if len(names) != 1:
            raise RefusedError(
                "output.also: peft",
                "one adapter",
                f"{len(names)} ({', '.join(names)})",
                "export them one by one with surgery_plugins.peft.export.export_adapter",
            )
        source = base.get("options", {}).get("path") or base.get("source", "")
        export_adapter(model, names[0], folder, base=str(source))


def export_adapter(model: nn.Module, adapter: str, folder: Path, *, base: str = "") -> None:
    """Write one adapter of a model.

    Args:
        model: the model, its tensors filled.
        adapter: the adapter's name.
        folder: where to write; it must exist.
        base: what the configuration names as the base.

    Raises:
        RefusedError: PEFT cannot express the adapter; the message says why.
    """
    from surgery.checkpoint.writer import NewEntry, write_tensors

    forms = forms_of(model, adapter)
    config = {**_config(forms), "base_model_name_or_path": base}
    tensors: dict[str, Tensor] = {k: t for form in forms for k, t in form.tensors.items()}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    write_tensors(
        folder / WEIGHTS,
        [
            NewEntry(PREFIX + key, str(t.dtype).removeprefix("torch."), tuple(t.shape), t.detach)
            for key, t in tensors.items()
        ],
    )


def _config(forms: Sequence[Form]) -> dict[str, Any]:
    modules = [form for form in forms if form.target_module]
    parameters = sorted({form.name for form in forms if not form.target_module})
    rank = max({form.rank for form in forms}, key=[form.rank for form in forms].count)
    rslora = _one("rslora", {form.rslora for form in forms})
    scale = max({f.scale for f in forms}, key=[f.scale for f in forms].count)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _alpha(scale, rank, rslora),
        "lora_dropout": max(form.dropout for form in forms),
        "use_rslora": rslora,
        "use_dora": _one("dora", {form.dora for form in forms}),
        "fan_in_fan_out": any(form.transposed for form in forms),
        "bias": "none",
        "init_lora_weights": True,
        "target_modules": _regex(form.name for form in modules) if modules else [],
        "target_parameters": parameters or None,
        "rank_pattern": {_key(form): form.rank for form in forms if form.rank != rank},
        "alpha_pattern": {
            _key(form): _alpha(form.scale, form.rank, rslora)
            for form in forms
            if _alpha(form.scale, form.rank, rslora) != _alpha(scale, rank, rslora)
        },
    }


def _alpha(scale: float, rank: int, rslora: bool) -> float:
    """Give the alpha that PEFT turns into a scale at a rank."""
    alpha = scale * (sqrt(rank) if rslora else rank)
    nearest = round(alpha)
    return nearest if abs(alpha - nearest) < 1e-9 else alpha


def _regex(names: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(name) for name in sorted(set(names))) + ")"


def _key(form: Form) -> str:
    return f"^{re.escape(form.name)}"


def _one(what: str, values: set[bool]) -> bool:
    if len(values) > 1:
        raise RefusedError(
            "peft", f"{what} for all sites of an adapter or for none", "both",
            "use two adapters, or the same option everywhere",
        )  # fmt: skip
    return values.pop()
