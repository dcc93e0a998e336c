"""What the sources need of transformers: quiet, without remote code, errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgery.errors import MissingExtraError, PatientError, SurgeryError

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
def quietly(where: str, wanted: str = "a model that transformers can build") -> Iterator[None]:
    """Silence transformers and turn what it raises into one clear line.

    Args:
        where: how errors name the base.
        wanted: what errors say was expected.

    Raises:
        PatientError: transformers, or what it calls, raised.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except SurgeryError:
        raise
    except Exception as error:
        line = " ".join(str(error).split()) or "no message"
        raise PatientError(where, wanted, f"{type(error).__name__}: {line[:300]}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_generation(model: Any, folder: Path, where: str) -> None:
    """Give a model that generates the generation config of its folder, where there is one."""
    if model.can_generate() and (folder / "generation_config.json").is_file():
        with quietly(where):
            model.generation_config = library(where).GenerationConfig.from_pretrained(
                folder, local_files_only=True
            )


def tokenizer_of(folder: Path, where: str, own_code: bool = False) -> Any:
    """Give a folder's tokenizer, or None where it has none.

    Args:
        folder: where its files may lie.
        where: how errors name the base.
        own_code: True to run code of the tokenizer's own.

    Raises:
        PatientError: the files are damaged, or ask for code of their own.
    """
    names = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
    if not any((folder / name).is_file() for name in names):
        return None
    with quietly(where):
        return library(where).AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=own_code
        )


def processor_of(folder: Path, where: str, own_code: bool = False) -> tuple[Any, list[str]]:
    """Give a folder's processor, or None where it has none, and a note where it cannot be made.

    A processor is not needed to change weights, and its packages (images, sound) are many: one
    that is missing is a note.
    """
    names = ("processor_config.json", "preprocessor_config.json")
    if not any((folder / name).is_file() for name in names):
        return None, []
    try:
        with quietly(where):
            found = library(where).AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=own_code
            )
    except PatientError as error:
        return None, [f"no processor: {error.found}"]
    return found, []


def complaints(info: dict[str, Any], harmless: frozenset[str], known: frozenset[str]) -> list[str]:
    """Give what did not land when weights were loaded.

    Args:
        info: transformers' loading info.
        harmless: unexpected names that do not matter: non-persistent buffers of older versions.
        known: names that the recipe allows to be missing or unexpected.
    """
    found = [f"{name} is missing" for name in sorted(set(info.get("missing_keys", ())) - known)]
    unexpected = set(info.get("unexpected_keys", ())) - known - harmless
    found += [f"{name} is not in the model" for name in sorted(unexpected)]
    for name, stored, wanted in sorted(info.get("mismatched_keys", ())):
        found.append(f"{name} has shape {list(stored)} and not {list(wanted)}")
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
