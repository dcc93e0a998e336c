"""Compare files of configuration and of tokenizers by what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.digests import digest_files
from surgery.errors import PatientError

TOKENIZER = "tokenizer.json"
MAX_JSON = 500_000_000


@dataclass(frozen=True)
class Said:
    """One thing that two files of one name say otherwise.

    Attributes:
        file: the file's name.
        key: the dotted key in it; empty for the file itself.
        before: what it was; None where it was absent.
        after: what it is; None where it is absent.
        kind: ``added``, ``removed`` or ``changed``.
    """

    file: str
    key: str
    before: Any
    after: Any
    kind: str

    def to_json(self) -> dict[str, Any]:
        """Give the difference as JSON values."""
        return {
            "file": self.file,
            "key": self.key,
            "kind": self.kind,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True)
class Tokens:
    """What became of a vocabulary, by ``tokenizer.json``.

    Attributes:
        added: new tokens and their numbers.
        removed: tokens that are gone and their numbers.
        renamed: numbers whose token has another text: number, text before, text after.
        moved: tokens with another number: text, number before, number after.
        flags: tokens that are treated otherwise: text, flag, value before, value after.
        parts: other parts that differ, such as ``normalizer`` or ``model.merges``.
    """

    added: tuple[tuple[str, int], ...] = ()
    removed: tuple[tuple[str, int], ...] = ()
    renamed: tuple[tuple[int, str, str], ...] = ()
    moved: tuple[tuple[str, int, int], ...] = ()
    flags: tuple[tuple[str, str, Any, Any], ...] = ()
    parts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Tokens()

    def to_json(self) -> dict[str, Any]:
        """Give the difference as JSON values."""
        return {
            "added": [{"token": token, "id": number} for token, number in self.added],
            "removed": [{"token": token, "id": number} for token, number in self.removed],
            "renamed": [{"id": n, "before": old, "after": new} for n, old, new in self.renamed],
            "moved": [{"token": t, "before": old, "after": new} for t, old, new in self.moved],
            "flags": [
                {"token": token, "flag": flag, "before": old, "after": new}
                for token, flag, old, new in self.flags
            ],
            "parts": list(self.parts),
        }


def compare_files(before: Mapping[str, Path], after: Mapping[str, Path]) -> tuple[Said, ...]:
    """Compare companion files: JSON by flattened keys, the tokenizer's tokens apart, others by
    digest.

    Raises:
        PatientError: a file is no JSON where its name says so.
        IntegrityError: a file cannot be read.
    """
    return tuple(
        said
        for name in sorted({*before, *after} - {TOKENIZER})
        for said in _file(name, before.get(name), after.get(name))
    ) + tuple(_only_one(TOKENIZER, before.get(TOKENIZER), after.get(TOKENIZER)))


def compare_tokens(before: Mapping[str, Path], after: Mapping[str, Path]) -> Tokens:
    """Compare the tokenizers of two sides that both have a ``tokenizer.json``.

    Raises:
        PatientError: one is no JSON, or not what the library tokenizers writes.
    """
    if TOKENIZER not in before or TOKENIZER not in after:
        return Tokens()
    old, new = _tokenizer(before[TOKENIZER]), _tokenizer(after[TOKENIZER])
    if old == new:
        return Tokens()
    words, now = _vocabulary(old), _vocabulary(new)
    lost, fresh = _by_number(words, now), _by_number(now, words)
    both = sorted(lost.keys() & fresh.keys())
    return Tokens(
        added=tuple((fresh[n], n) for n in sorted(fresh.keys() - lost.keys())),
        removed=tuple((lost[n], n) for n in sorted(lost.keys() - fresh.keys())),
        renamed=tuple((n, lost[n], fresh[n]) for n in both),
        moved=tuple((t, n, now[t]) for t, n in words.items() if now.get(t, n) != n),
        flags=tuple(_flags(old, new)),
        parts=tuple(_parts(old, new)),
    )


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Give the leaves of nested JSON objects by dotted key; lists are leaves."""
    if not isinstance(value, Mapping) or (prefix and not value):
        return {prefix: value}
    return {
        key: leaf
        for name, child in value.items()
        for key, leaf in flattened(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def compare_keys(file: str, before: Any, after: Any) -> Iterator[Said]:
    """Compare nested JSON values key by key."""
    old, new = flattened(before), flattened(after)
    for key in sorted({*old, *new}):
        if key not in new:
            yield Said(file, key, old[key], None, "removed")
        elif key not in old:
            yield Said(file, key, None, new[key], "added")
        elif _text(old[key]) != _text(new[key]):
            yield Said(file, key, old[key], new[key], "changed")


def _file(name: str, before: Path | None, after: Path | None) -> Iterator[Said]:
    if before is None or after is None:
        yield from _only_one(name, before, after)
    elif not before.samefile(after):
        if name.endswith(".json") and name != "vocab.json":
            yield from compare_keys(name, _read(before), _read(after))
        else:
            yield from _digests(name, before, after)


def _only_one(name: str, before: Path | None, after: Path | None) -> Iterator[Said]:
    """Report a file that one side alone has."""
    if before is None and after is not None:
        yield Said(name, "", None, after.stat().st_size, "added")
    elif before is not None and after is None:
        yield Said(name, "", before.stat().st_size, None, "removed")


def _digests(name: str, before: Path, after: Path) -> Iterator[Said]:
    found = digest_files({"before": before, "after": after})
    old, new = found["before"]["sha256"], found["after"]["sha256"]
    if old != new:
        yield Said(name, "", f"sha256 {old[:12]}", f"sha256 {new[:12]}", "changed")


def _text(value: Any) -> str:
    """Write a JSON value so that true is not 1, and 1 is not 1.0."""
    return json.dumps(value, sort_keys=True)


def _read(path: Path) -> Any:
    if path.stat().st_size > MAX_JSON:
        raise PatientError(str(path), f"at most {MAX_JSON} bytes", f"{path.stat().st_size}")
    try:
        return json.loads(path.read_text("utf-8"), parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise PatientError(str(path), "a file in JSON", f"'{error}'"[:200]) from None


def _tokenizer(path: Path) -> Mapping[str, Any]:
    """Read a ``tokenizer.json``, as far as it is compared token by token."""
    data = _read(path)
    added = data.get("added_tokens", []) if isinstance(data, Mapping) else None
    good = isinstance(added, list) and all(
        isinstance(one, Mapping) and {"id", "content"} <= one.keys() for one in added
    )
    if not good or not isinstance(data.get("model"), Mapping):
        raise PatientError(str(path), "a tokenizer with a model and added tokens", "another JSON")
    return dict(data)


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Give the number of each token; a unigram model numbers its pieces by their order."""
    vocab = tokenizer["model"].get("vocab", {})
    pieces: dict[str, int] = (
        dict(vocab)
        if isinstance(vocab, Mapping)
        else {str(piece[0]): number for number, piece in enumerate(vocab)}
    )
    return {**pieces, **{one["content"]: one["id"] for one in tokenizer.get("added_tokens", [])}}


def _by_number(words: Mapping[str, int], others: Mapping[str, int]) -> dict[int, str]:
    """Give the tokens that the other vocabulary lacks, by number."""
    return {number: token for token, number in words.items() if token not in others}


def _flags(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Compare how added tokens are treated; a token of the plain vocabulary has no flags."""
    before, after = _special(old), _special(new)
    for token in sorted(before.keys() & after.keys()):
        for flag in sorted({*before[token], *after[token]} - {"id", "content"}):
            values = before[token].get(flag), after[token].get(flag)
            if values[0] != values[1]:
                yield token, flag, *values
    shared = _vocabulary(old).keys() & _vocabulary(new).keys()
    for token in sorted((before.keys() ^ after.keys()) & shared):
        yield token, "added_token", token in before, token in after


def _special(tokenizer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one["content"]: one for one in tokenizer.get("added_tokens", [])}


def _parts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the other parts that differ, those of the model one by one."""
    apart = {"model", "added_tokens"}
    top = _differing(old, new, apart)
    model = _differing(old["model"], new["model"], {"vocab"})
    scores = _scores(old) != _scores(new)
    return [*top, *(f"model.{name}" for name in model), *(["model.vocab scores"] if scores else [])]


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], apart: set[str]) -> list[str]:
    return [name for name in sorted({*old, *new} - apart) if old.get(name) != new.get(name)]


def _scores(tokenizer: Mapping[str, Any]) -> Sequence[Any]:
    """Give the scores of a unigram model's pieces, by piece; their numbers are compared apart."""
    vocab = tokenizer["model"].get("vocab", {})
    return () if isinstance(vocab, Mapping) else sorted((str(p[0]), *p[1:]) for p in vocab)
