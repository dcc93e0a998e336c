"""Write the adapters of a model in PEFT's format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery_plugins.peft.beginning import Beginning
from surgery_plugins.peft.forms import Form, forms_of
from surgery_plugins.peft.names import CONFIG, PREFIX, WEIGHTS
from surgery_plugins.peft.trained import kept

if TYPE_CHECKING:
    from torch import Tensor, nn


def export_adapter(
    model: nn.Module,
    adapter: str,
    folder: Path,
    *,
    base: str = "",
    trained: Iterable[str] = (),
    begin: Beginning | None = None,
) -> None:
    """Write one adapter of a model, with the base's tensors that were trained beside it.

    Rows that ``unfreeze`` trains alone are found by themselves. PEFT has one dropout for all
    modules and none for raw parameters: the largest is written, or 0.

    Args:
        model: the model, its tensors filled.
        adapter: the adapter's name.
        folder: where to write; it must exist.
        base: what the configuration names as the base.
        trained: names of the base's tensors that were trained as a whole.
        begin: tells the first values of adapters that took a part of the base (PiSSA, OLoRA).

    Raises:
        RefusedError: PEFT cannot express the adapter; the message says why.
    """
    from surgery.checkpoint.writer import NewEntry, write_tensors

    forms = forms_of(model, adapter, begin)
    beside = kept(model, trained, (form.name for form in forms if form.target_module))
    config = {**_config(forms), **beside.config, "base_model_name_or_path": base}
    tensors: dict[str, Tensor] = {k: t for form in forms for k, t in form.tensors.items()}
    tensors |= beside.tensors
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    write_tensors(
        folder / WEIGHTS,
        [
            NewEntry(PREFIX + key, str(t.dtype).removeprefix("torch."), tuple(t.shape), t.detach)
            for key, t in tensors.items()
        ],
    )


def _config(forms: Sequence[Form]) -> dict[str, Any]:
    modules = [form.name for form in forms if form.target_module]
    parameters = sorted({form.name for form in forms if not form.target_module})
    rslora = any(form.rslora for form in forms)
    ranks = {form.name: form.rank for form in forms}
    alphas = {form.name: _alpha(form.scale, form.rank, rslora) for form in forms}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0 if parameters else max(form.dropout for form in forms),
        "use_rslora": rslora,
        "use_dora": _one("dora", {form.dora for form in forms}),
        "fan_in_fan_out": any(form.transposed for form in forms),
        "bias": "none",
        "init_lora_weights": True,
        "target_modules": _regex(modules) if modules else [],
        "target_parameters": parameters or None,
        "rank_pattern": {_key(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {_key(name): a for name, a in alphas.items() if a != alpha},
    }


def _commonest(values: Mapping[str, Any]) -> Any:
    every = list(values.values())
    return max(every, key=every.count)


def _alpha(scale: float, rank: int, rslora: bool) -> float:
    """Give the alpha that PEFT turns into a scale at a rank."""
    alpha = scale * (sqrt(rank) if rslora else rank)
    nearest = round(alpha)
    return nearest if abs(alpha - nearest) < 1e-9 else alpha


def _regex(names: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(name) for name in sorted(set(names))) + ")"


def _key(name: str) -> str:
    """Give a pattern that meets one name alone: PEFT looks at the end of paths, ``^`` at all."""
    return f"^{re.escape(name)}"


def _one(what: str, values: set[bool]) -> bool:
    if len(values) > 1:
        raise RefusedError(
            "peft", f"{what} for all sites of an adapter or for none", "both",
            "use two adapters, or the same option everywhere",
        )  # fmt: skip
    return values.pop()
