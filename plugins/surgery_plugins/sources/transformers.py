"""What the sources need of transformers: quiet, without remote code, errors in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgery.errors import MissingExtraError, PatientError, did_you_mean

COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json",
)  # fmt: skip
"""Files that travel with a checkpoint unchanged."""


def library(where: str) -> Any:
    """Import transformers.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise MissingExtraError(where, "transformers", "hf") from None
    return transformers


@contextmanager
def quietly(where: str) -> Iterator[None]:
    """Silence transformers and turn what it raises into one clear line.

    Args:
        where: how errors name the base.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        line = (str(error).strip().splitlines() or ["no message"])[0]
        raise PatientError(
            where, "a model that transformers can build", f"{type(error).__name__}: {line[:200]}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's ``config.json``.

    Raises:
        PatientError: the folder or the file is missing, or is no JSON object.
    """
    file = folder / "config.json"
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise PatientError(str(folder), "a folder with config.json", found, "check the path")
    if not file.is_file():
        found = "no config.json" if any(folder.iterdir()) else "an empty folder"
        raise PatientError(str(folder), "a folder with config.json", found)
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise PatientError(str(file), "a JSON object", str(error)) from None
    if not isinstance(data, dict):
        raise PatientError(str(file), "a JSON object", type(data).__name__)
    return data


def class_of(config: Any, architecture: str | None, where: str) -> Any:
    """Give the model class of a configuration.

    Args:
        config: the configuration.
        architecture: the class's name, where the recipe names one.
        where: how errors name the base.

    Raises:
        PatientError: neither names a class, or transformers has none of that name.
    """
    transformers = library(where)
    name = architecture or next(iter(getattr(config, "architectures", None) or ()), None)
    if name is None:
        raise PatientError(
            f"{where}: architectures",
            "the name of a model class",
            "none",
            "write `architecture:` in `patient:`, such as LlamaForCausalLM",
        )
    found = getattr(transformers, str(name), None)
    if not hasattr(found, "_from_config"):
        models = [n for n in dir(transformers) if n.endswith(("Model", "LM", "Classification"))]
        raise PatientError(
            f"{where}: architectures",
            "a model class of transformers",
            repr(name),
            did_you_mean(str(name), models),
        )
    return found


def tokenizer_of(folder: Path, where: str) -> Any:
    """Give a folder's tokenizer, or None where it has none."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
    if not any((folder / name).is_file() for name in names):
        return None
    with quietly(where):
        return library(where).AutoTokenizer.from_pretrained(folder, local_files_only=True)


def complaints(info: dict[str, Any], known: frozenset[str]) -> list[str]:
    """Give what did not land when weights were loaded.

    Args:
        info: transformers' loading info.
        known: unexpected names that are harmless: non-persistent buffers of older versions.
    """
    found = [f"{name} is missing" for name in sorted(info.get("missing_keys", ()))]
    unexpected = set(info.get("unexpected_keys", ())) - known
    found += [f"{name} is not in the model" for name in sorted(unexpected)]
    found += [f"{item[0]} has another shape" for item in sorted(info.get("mismatched_keys", ()))]
    return found + [str(error) for error in info.get("error_msgs", ())]


def raise_complaints(found: list[str], where: str) -> None:
    """Raise unless every weight landed.

    Raises:
        PatientError: some did not.
    """
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise PatientError(
            where,
            "weights that fit the model exactly",
            "; ".join(found[:5]) + more,
            "name the right class with `architecture:`, or list the names under `may_differ:`",
        )
