"""Check a folder before transformers reads it, which follows links, indexes and adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from surgery.checkpoint.header import read_header
from surgery.checkpoint.index import file_inside, open_checkpoint
from surgery.checkpoint.strict import readable, show, show_path
from surgery.errors import IntegrityError, PatientError
from surgery_plugins.sources.transformers import COMPANIONS

ADAPTER = "adapter_config.json"
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def check_folder(folder: Path, config: Any) -> None:
    """Check headers, index and links of a folder, and that nothing takes transformers elsewhere.

    Args:
        folder: the folder of a model; without weights, its other files are checked alone.
        config: the model's configuration.

    Raises:
        IntegrityError: a file is damaged, or a name or link leads out of the folder.
        PatientError: transformers would read other weights than the checked ones.
    """
    with readable(folder):
        for name in COMPANIONS:
            if (folder / name).exists() or (folder / name).is_symlink():
                file_inside(folder, name, "config.json")
        files = _weights(folder)
        for name in getattr(type(config), "extra_files", ()):
            if (folder / name).exists():
                read_header(file_inside(folder, name, "config.json"))
        _refuse_others(folder, config, files)


def _weights(folder: Path) -> list[str]:
    """Check the safetensors files of a folder; several without an index are left for later."""
    try:
        return list(open_checkpoint(folder))
    except PatientError:
        return []


def _refuse_others(folder: Path, config: Any, files: list[str]) -> None:
    """Refuse what makes transformers read other weights than those that were checked."""
    wanted = "weights in the usual files alone"
    named = getattr(config, "transformers_weights", None)
    if named is not None and named not in files:
        where = f"{show_path(folder / 'config.json')}: transformers_weights"
        raise IntegrityError(where, wanted, show(named), "remove the key")
    if (folder / ADAPTER).exists():
        instead = "move the adapter out of the folder, and add it with a surgery"
        raise PatientError(show_path(folder / ADAPTER), wanted, "an adapter", instead)
    for path in folder.glob("shard-*.safetensors"):
        if _DISTRIBUTED.fullmatch(path.name):
            instead = "save the model anew with save_pretrained"
            raise PatientError(show_path(path), wanted, "a distributed checkpoint", instead)
