"""Configurations of transformers, the classes that they name, and the dtype of weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.header import read_header
from surgery.checkpoint.index import open_checkpoint
from surgery.errors import PatientError, did_you_mean
from surgery_plugins.sources.own import own_config, own_model
from surgery_plugins.sources.transformers import library, quietly
from surgery_plugins.sources.weights import first_dtype, is_pickled

if TYPE_CHECKING:
    from torch import nn

    from surgery.checkpoint.reading import File

_SIMILAR = 0.8
"""How near (of 1) an unknown key must be to a known one to be taken for a slip."""


def read_config(place: Path) -> dict[str, Any]:
    """Read a ``config.json``, given as a file or by its folder.

    Raises:
        PatientError: the folder or the file is missing, or is no JSON object.
    """
    file = place if place.is_file() and place.suffix == ".json" else place / "config.json"
    if file != place and not place.is_dir():
        found = "a file" if place.exists() else "nothing there"
        raise PatientError(str(place), "a folder with config.json", found, "check the path")
    if not file.is_file():
        found = "no config.json" if any(place.iterdir()) else "an empty folder"
        raise PatientError(str(place), "a folder with config.json", found)
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise PatientError(str(file), "a JSON object", str(error)) from None
    if not isinstance(data, dict):
        raise PatientError(str(file), "a JSON object", type(data).__name__)
    return data


def config_of(data: Mapping[str, Any], where: str) -> Any:
    """Make the configuration that plain data describe; no code of the model is run.

    Raises:
        PatientError: transformers does not know its ``model_type``, or refuses its values.
    """
    known = library(where).CONFIG_MAPPING
    kind = data.get("model_type")
    own = own_config(kind)
    if own is None and (not isinstance(kind, str) or kind not in known):
        instead = did_you_mean(str(kind), known)
        if "auto_map" in data:
            instead = "it brings its own code: read it, then write trust_remote_code: true"
        wanted = "a model type of transformers"
        raise PatientError(f"{where}: model_type", wanted, repr(kind), instead)
    with quietly(where):
        values = {key: value for key, value in data.items() if key != "model_type"}
        return (own or known[kind]).from_dict(values)


def refuse_slips(data: Mapping[str, Any], config: Any, where: str) -> None:
    """Raise for keys that the configuration does not have and that are near to one that it has.

    Raises:
        PatientError: there is such a key; transformers would keep it and never look at it.
    """
    cls = type(config)
    plain = cls.__dataclass_fields__.keys() | dict(cls.attribute_map).keys()
    known = {str(key) for key in plain} | {"model_type", "architectures", "dtype", "torch_dtype"}
    for key in data:
        near = get_close_matches(str(key), known, n=1, cutoff=_SIMILAR)
        if near and key not in known:
            wanted = f"a key of {cls.__name__}"
            raise PatientError(where, wanted, repr(key), did_you_mean(str(key), known))


def flat_numbers(data: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Give the numbers of a configuration, those of its parts by dotted names."""
    found: dict[str, float] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found


def with_numbers(data: Mapping[str, Any], numbers: Mapping[str, float]) -> dict[str, Any]:
    """Give a copy of a configuration with other numbers, named as ``flat_numbers`` does."""
    found = dict(data)
    for name, value in numbers.items():
        top, _, rest = name.partition(".")
        below = found.get(top) or {}
        found[top] = with_numbers(below, {rest: value}) if rest else value
    return found


def class_of(config: Any, architecture: str | None, where: str, own_code: Path | None) -> Any:
    """Give the model class of a configuration.

    Args:
        config: the configuration.
        architecture: the class's name, where the recipe names one.
        where: how errors name the base.
        own_code: the folder of the model's own code, where the user consented to run it.

    Raises:
        PatientError: neither names a class, or there is none of that name.
    """
    name = architecture or _first(getattr(config, "architectures", None))
    if name is None:
        raise PatientError(
            f"{where}: architectures",
            "the name of a model class",
            "none",
            "write `architecture:` in `patient:`, such as LlamaForCausalLM",
        )
    found = getattr(library(where), name, None) or own_model(name)
    if own_code is not None:
        found = _own_class(config, name, own_code, where) or found
    if not hasattr(found, "_from_config"):
        models = [n for n in dir(library(where)) if n.endswith(("Model", "LM", "Classification"))]
        wanted, hint = "a model class of transformers", did_you_mean(name, models)
        raise PatientError(f"{where}: architectures", wanted, repr(name), hint)
    return found


def dtype_for(
    config: Any, given: str | None, folder: Path | None, remote: Iterable[File] = ()
) -> Any:
    """Give the dtype of the weights in memory: the recipe's, the config's or the first stored.

    Args:
        config: the configuration.
        given: what the recipe says, or None.
        folder: the folder with the weights, or None for random ones.
        remote: the weight files, where they lie behind a URL and not in the folder.

    Returns:
        The torch dtype, or None where nobody says.
    """
    from surgery.operate.dtypes import dtype_of

    if given is not None:
        return dtype_of(given)
    if getattr(config, "dtype", None) is not None or folder is None:
        return getattr(config, "dtype", None)
    if is_pickled(folder):
        return first_dtype(folder)
    files = [*remote]
    if not files and any(folder.glob("*.safetensors")):
        files = [*open_checkpoint(folder).values()]
    stored = (e for file in files for e in read_header(file).entries.values())
    return next((dtype_of(e.dtype) for e in stored if "float" in e.dtype), None)


def keep_in_float32(model: nn.Module, dtype: Any) -> None:
    """Give a structure on meta the dtypes that transformers gives it with its weights.

    transformers keeps some tensors in float32: those of ``_keep_in_fp32_modules`` in a float16
    model, those of ``_keep_in_fp32_modules_strict`` in a bfloat16 one too.
    """
    import re

    import torch

    strict = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    soft = getattr(model, "_keep_in_fp32_modules", None) or ()
    kept = [*(strict if dtype in (torch.float16, torch.bfloat16) else ())]
    kept += soft if dtype == torch.float16 else ()
    if kept:
        pattern = re.compile("|".join(f"(?:{name.replace('*', '.*')})" for name in kept))
        for name, parameter in model.named_parameters():
            if pattern.search(name):
                parameter.data = parameter.data.to(torch.float32)


def _first(names: Any) -> str | None:
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return None


def _own_class(config: Any, name: str, folder: Path, where: str) -> Any:
    """Import a class from the code that comes with a model; None where it has none of the name."""
    references = [str(ref) for ref in (getattr(config, "auto_map", None) or {}).values()]
    for reference in references:
        if reference.rpartition(".")[2] == name:
            from transformers.dynamic_module_utils import get_class_from_dynamic_module

            with quietly(where):
                return get_class_from_dynamic_module(reference, folder)
    return None
