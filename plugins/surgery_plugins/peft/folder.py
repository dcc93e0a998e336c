"""Open a folder that PEFT wrote: its configuration checked, its tensors at hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import PatientError, RefusedError
from surgery_plugins.peft.names import CONFIG, PICKLED, WEIGHTS, Name, parse

if TYPE_CHECKING:
    from torch import Tensor

_KNOWN = frozenset(
    [
        "peft_type",
        "task_type",
        "inference_mode",
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "peft_version",
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "use_dora",
        "fan_in_fan_out",
        "bias",
        "init_lora_weights",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "target_parameters",
        "modules_to_save",
        "trainable_token_indices",
        "ensure_weight_tying",
        "eva_config",
        "corda_config",
        "loftq_config",
        "lora_ga_config",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "enable_lora",
        "merge_weights",
    ]
)
"""What is read here, and what says only how an adapter began or is run."""

_WHY = {
    "layer_replication": "which repeats layers of the base",
    "lora_bias": "which adds biases to B",
    "alora_invocation_tokens": "which acts on some tokens alone",
}

_REWRITING = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Beginnings that change the base's own weights."""


@dataclass(frozen=True)
class Adapter:
    """One adapter that PEFT wrote.

    Attributes:
        name: what it is called here.
        folder: where it is.
        file: the file of its tensors.
        config: its configuration.
        shapes: shape of each tensor, by its name in the file.
        names: what those names say.
        get: gives a tensor by its name in the file.
    """

    name: str
    folder: Path
    file: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    names: tuple[Name, ...]
    get: Callable[[str], Tensor]

    def where(self, key: str) -> str:
        """Name a tensor's place, for errors."""
        return f"{self.file}: {key}"

    def option(self, key: str, default: Any = None) -> Any:
        """Give a value of the configuration; the default where it is missing or null."""
        found = self.config.get(key)
        return default if found is None else found


def open_adapter(folder: Path, name: str) -> Adapter:
    """Open the adapter that a folder holds.

    Args:
        folder: holds ``adapter_config.json`` and the tensors, as safetensors or as a pickle of
            tensors alone.
        name: what the adapter is called here.

    Raises:
        PatientError: the folder holds no adapter, or a damaged one.
        RefusedError: its configuration says what ``lora`` does not have.
    """
    config = _config(folder)
    file, shapes, get = _tensors(folder)
    names = tuple(_parsed(file, key) for key in shapes)
    return Adapter(name, folder, file, config, shapes, names, get)


def _config(folder: Path) -> dict[str, Any]:
    where = str(folder / CONFIG)
    try:
        data = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PatientError(
            where, "the configuration of an adapter", str(error), _inside(folder)
        ) from None
    if not isinstance(data, dict) or data.get("peft_type") != "LORA":
        found = data.get("peft_type") if isinstance(data, dict) else type(data).__name__
        raise PatientError(where, "a LoRA adapter (peft_type LORA)", str(found))
    if reasons := list(_reasons(data)):
        raise RefusedError(
            where, "settings that `lora` has too", ", ".join(reasons),
            "merge it with PEFT and start from the merged weights",
        )  # fmt: skip
    return data


def _inside(folder: Path) -> str:
    """Name the adapters in the folders below, where PEFT writes those with a name."""
    found = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
    return f"give one or more of {', '.join(found)}" if found else ""


def _reasons(data: Mapping[str, Any]) -> Iterator[str]:
    for key, value in data.items():
        if key not in _KNOWN and value:
            yield f"{key}{', ' + _WHY[key] if key in _WHY else ''}"
    init = str(data.get("init_lora_weights")).lower()
    if init.startswith(_REWRITING):
        yield (
            f"init_lora_weights {init}, which changed the base (save it with PEFT's "
            "path_initial_model_for_weight_conversion)"
        )
    if data.get("bias", "none") not in ("none", "all", "lora_only"):
        yield f"bias {data['bias']}"


def _tensors(
    folder: Path,
) -> tuple[Path, dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    if (folder / WEIGHTS).is_file() or not (folder / PICKLED).is_file():
        from surgery.checkpoint.tensors import TensorReader

        reader = TensorReader(folder / WEIGHTS)
        return folder / WEIGHTS, {k: e.shape for k, e in reader.entries.items()}, reader.get
    held = _pickled(folder / PICKLED)
    return folder / PICKLED, {k: tuple(t.shape) for k, t in held.items()}, held.__getitem__


def _pickled(file: Path) -> dict[str, Tensor]:
    from torch import Tensor

    from surgery.checkpoint.pickles import read_pickle

    held = read_pickle(file)
    if not isinstance(held, dict) or not all(isinstance(one, Tensor) for one in held.values()):
        raise PatientError(str(file), "tensors by name", type(held).__name__)
    return held


def _parsed(file: Path, key: str) -> Name:
    name = parse(key)
    if name is None:
        raise RefusedError(
            f"{file}: {key}", "a tensor that LoRA has (lora_A, lora_B, ...)", "another",
            "merge the adapter with PEFT and start from the merged weights",
        )  # fmt: skip
    return name
