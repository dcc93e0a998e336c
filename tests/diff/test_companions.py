"""Files of configuration and tokenizers are compared by what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import PatientError
from surgery.flow.companions import Tokens, compare_files, compare_tokens, flattened

SPECIAL = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def written(folder: Path, **files: Any) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    found = {}
    for stem, data in files.items():
        path = folder / f"{stem}.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        found[path.name] = path
    return found


def tokenizer(vocab: Any, added: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    return {"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": added, **more}


def token(number: int, content: str, special: bool = True) -> dict[str, Any]:
    return {"id": number, "content": content, "special": special, **SPECIAL}


def tokens(tmp_path: Path, before: Any, after: Any) -> Tokens:
    return compare_tokens(
        written(tmp_path / "a", tokenizer=before), written(tmp_path / "b", tokenizer=after)
    )


def test_keys_are_compared_flat_and_types_count(tmp_path: Path) -> None:
    before = {"a": 1, "rope": {"theta": 1.0, "kind": "x"}, "gone": None, "flag": 1, "list": [1]}
    after = {"a": 1, "rope": {"theta": 2.0, "kind": "x"}, "new": [], "flag": True, "list": [1]}
    found = compare_files(
        written(tmp_path / "a", config=before), written(tmp_path / "b", config=after)
    )
    assert {(s.kind, s.key, str(s.before), str(s.after)) for s in found} == {
        ("changed", "rope.theta", "1.0", "2.0"),
        ("removed", "gone", "None", "None"),
        ("added", "new", "None", "[]"),
        ("changed", "flag", "1", "True"),
    }


def test_an_empty_object_is_a_leaf() -> None:
    assert flattened({"a": {}, "b": {"c": {}}}) == {"a": {}, "b.c": {}}
    assert flattened({}) == {}


def test_a_file_that_one_side_alone_has_is_reported(tmp_path: Path) -> None:
    one = written(tmp_path / "a", config={}, tokenizer=tokenizer({}, []))
    kinds = {(said.file, said.kind) for said in compare_files(one, {})}
    assert kinds == {("config.json", "removed"), ("tokenizer.json", "removed")}
    assert {said.kind for said in compare_files({}, one)} == {"added"}


def test_other_files_are_compared_by_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    (tmp_path / "c").write_text("x")
    name = "vocab.txt"
    (found,) = compare_files({name: tmp_path / "a"}, {name: tmp_path / "b"})
    assert (found.kind, found.key) == ("changed", "")
    assert compare_files({name: tmp_path / "a"}, {name: tmp_path / "c"}) == ()


def test_tokens_are_added_removed_renamed_and_moved(tmp_path: Path) -> None:
    before = tokenizer({"a": 0, "b": 1, "c": 2, "d": 3}, [token(9, "<u0>"), token(4, "<old>")])
    after = tokenizer({"a": 0, "c": 5, "d": 3, "B": 1}, [token(9, "<tool>"), token(7, "<new>")])
    found = tokens(tmp_path, before, after)
    assert found.added == (("<new>", 7),)
    assert found.removed == (("<old>", 4),)
    assert found.renamed == ((1, "b", "B"), (9, "<u0>", "<tool>"))
    assert found.moved == (("c", 2, 5),)
    assert found.parts == ()


def test_flags_and_other_parts_are_compared(tmp_path: Path) -> None:
    before = tokenizer({"a": 0}, [token(1, "<s>")], normalizer=None)
    after = tokenizer({"a": 0}, [token(1, "<s>", False)], normalizer={"type": "NFC"})
    after["model"]["merges"] = [["a", "a"]]
    found = tokens(tmp_path, before, after)
    assert found.flags == (("<s>", "special", True, False),)
    assert found.parts == ("normalizer", "model.merges")


def test_a_token_that_becomes_an_added_one_is_reported(tmp_path: Path) -> None:
    found = tokens(tmp_path, tokenizer({"a": 0}, []), tokenizer({"a": 0}, [token(0, "a")]))
    assert found.flags == (("a", "added_token", False, True),)


def test_pieces_of_a_unigram_model_are_numbered_by_their_order(tmp_path: Path) -> None:
    before = tokenizer([["a", -1.0], ["b", -2.0]], [])
    after = tokenizer([["b", -2.0], ["a", -1.0], ["c", -3.0]], [])
    found = tokens(tmp_path, before, after)
    assert found.added == (("c", 2),)
    assert found.moved == (("a", 0, 1), ("b", 1, 0))


def test_an_equal_tokenizer_says_nothing_even_where_the_text_differs(tmp_path: Path) -> None:
    data = tokenizer({"a": 0}, [])
    assert not tokens(tmp_path, json.dumps(data), json.dumps(data, indent=2))


@pytest.mark.parametrize("bad", ["{", "[]", '{"model": 1}', '{"model": {}, "added_tokens": [1]}'])
def test_a_broken_tokenizer_is_an_error_that_names_the_file(tmp_path: Path, bad: str) -> None:
    with pytest.raises(PatientError, match=r"tokenizer\.json"):
        tokens(tmp_path, bad, tokenizer({}, []))
