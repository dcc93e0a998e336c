"""Check that embedding, head, configuration and tokenizer agree on the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from surgery.checkpoint.stored import Stored
from surgery.checkpoint.strict import read_json
from surgery.checks.check import Check, failed, passed, skipped
from surgery.operate.patient import Patient
from surgery.operate.table import named_tensors

CONFIGS = ("config.json", "generation_config.json")
"""The files that may name special tokens by their ids."""

_IDS = ("_token_id", "_token_ids", "_token_index")
_NONE = -1
"""What configurations write for a special token that there is none of."""


@dataclass(frozen=True)
class Rows:
    """How large a vocabulary is for each part of a patient; None where a part says nothing.

    Attributes:
        embedding: rows of the input embedding.
        head: rows of the head.
        stated: ``vocab_size`` of the text configuration.
    """

    embedding: int | None
    head: int | None
    stated: int | None


def rows_of(patient: Patient, stored: Mapping[str, Sequence[Stored]] | None = None) -> Rows:
    """Give the size of a patient's vocabulary.

    Args:
        patient: the structure.
        stored: tensors by name in the model, whose shapes count more than the structure's.
    """
    config = patient.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    stated = getattr(text, "vocab_size", None)
    return Rows(
        embedding=_table(patient.model, "get_input_embeddings", stored or {}),
        head=_table(patient.model, "get_output_embeddings", stored or {}),
        stated=stated if isinstance(stated, int) else None,
    )


def vocabulary_rows(
    now: Rows, *, built: Rows | None = None, before: Rows | None = None, tokens: int | None = None
) -> Check:
    """Check that all parts agree on the number of rows.

    Args:
        now: what is stored.
        built: what the configuration in the folder builds.
        before: the base's; parts that agreed there must agree now.
        tokens: the number of rows that the tokenizer needs: its highest id and one more.
    """
    name = "vocabulary rows"
    if now.embedding is None:
        return skipped(name, "the model names no input embedding")
    wrong = [*_differences(now, built), *_parted(now, before)]
    if tokens is not None and tokens > now.embedding:
        wrong.append(f"the tokenizer needs {tokens} rows, the embedding has {now.embedding}")
    if wrong:
        return failed(name, "; ".join(wrong))
    known = {"tokens": tokens, "head rows": now.head, "vocab_size": now.stated}
    told = [f"{what} {count}" for what, count in known.items() if count is not None]
    return passed(name, ", ".join([f"{now.embedding} rows", *told]))


def token_ids(folder: Path, now: Rows, tokenizer: Any) -> Check:
    """Check that each special token that a configuration names by its id has a row and a token.

    A part of a configuration with a vocabulary of its own is held against that; one that has
    neither is not the text's, and says nothing of it.

    Args:
        folder: holds the configurations.
        now: the size of the vocabulary.
        tokenizer: the tokenizer, or None.

    Raises:
        IntegrityError: a configuration is no JSON.
    """
    name = "token ids"
    files = [folder / file for file in CONFIGS if (folder / file).exists()]
    if not files:
        return skipped(name, f"the folder has neither {' nor '.join(CONFIGS)}")
    if now.embedding is None:
        return skipped(name, "the model names no input embedding")
    known = None if tokenizer is None else frozenset(tokenizer.get_vocab().values())
    ids = [found for file in files for found in _ids(file.name, read_json(file), now, known)]
    wrong = [f"{one.where} is {one.id}, {one.why}" for one in ids if one.why]
    if wrong:
        return failed(name, "; ".join(wrong[:5]))
    more = "" if known is not None else "; there is no tokenizer to find them in"
    return passed(name, f"{len(ids)} ids have a row{more}")


def tokens_of(tokenizer: Any) -> int | None:
    """Give the number of rows that a tokenizer needs: its highest id and one more."""
    if tokenizer is None:
        return None
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


@dataclass(frozen=True)
class _Id:
    """A special token in a configuration: where, its id, and what is wrong with it if anything."""

    where: str
    id: int
    why: str


def _ids(where: str, data: Any, now: Rows, known: frozenset[int] | None) -> Iterator[_Id]:
    """Find the special tokens of a configuration and of its parts."""
    if not isinstance(data, Mapping):
        return
    own = data.get("vocab_size")
    main = own in (None, now.stated, now.embedding)
    rows = now.embedding if main or not isinstance(own, int) else own
    for key, value in data.items():
        place = f"{where}: {key}"
        if isinstance(value, Mapping):
            if isinstance(value.get("vocab_size"), int):
                yield from _ids(place, value, now, known)
        elif key.endswith(_IDS):
            for one in value if isinstance(value, list) else [value]:
                if type(one) is int and one != _NONE:
                    yield _Id(place, one, _why(one, rows, known if main else None))


def _why(one: int, rows: int | None, known: frozenset[int] | None) -> str:
    """Say why there is no token of an id; nothing where there is one."""
    if rows is not None and not 0 <= one < rows:
        return f"and there are {rows} rows"
    return "which is no token of the tokenizer" if known and one not in known else ""


def _differences(now: Rows, built: Rows | None) -> Iterator[str]:
    """Say where the files hold other numbers than the configuration builds."""
    for field in fields(Rows) if built is not None else ():
        wanted, found = getattr(built, field.name), getattr(now, field.name)
        if wanted != found:
            yield f"{field.name}: the configuration makes {wanted}, the tensors have {found}"


def _parted(now: Rows, before: Rows | None) -> Iterator[str]:
    """Say which parts agreed before and do not agree now."""
    names = [field.name for field in fields(Rows)]
    pairs = zip(names, astuple(before or now), strict=True)
    for (one, old), (two, other) in combinations(pairs, 2):
        left, right = getattr(now, one), getattr(now, two)
        if old is not None and old == other and left != right:
            yield f"{one} {left} and {two} {right}, which were both {old}"


def _table(model: Any, getter: str, stored: Mapping[str, Sequence[Stored]]) -> int | None:
    """Give the rows of the embedding or the head of a model, as stored where it is stored."""
    try:
        table: Any = getattr(getattr(model, getter)(), "weight", None)
    except (AttributeError, NotImplementedError, TypeError):
        return None
    if getattr(table, "dim", lambda: 0)() != 2:
        return None
    names = [name for name, tensor, _ in named_tensors(model) if tensor is table]
    held = [one.shape for name in names for one in stored.get(name, ())]
    rows: int = held[0][0] if held and held[0] else table.shape[0]
    return rows
