"""A base is hashed once for all its outputs; what looks for damage reads it nevertheless."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.checkpoint import digests, remembered
from surgery.checkpoint.remembered import SETTLED, recall, remember, state_of
from surgery.checks.check import FAILED
from surgery.cli import main
from surgery.errors import IntegrityError
from surgery.flow.files import journal_in
from surgery.flow.undo import undo_all
from surgery.flow.verify import verify
from surgery.hooks.registry import registry
from tests.flow.conftest import write_recipe
from tests.flow.test_verify import save_model


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a base that was written a minute ago, as the clock says, and an empty cache."""
    monkeypatch.setenv("SURGERY_CACHE", str(tmp_path / "cache"))
    now = time.time
    monkeypatch.setattr(remembered.time, "time", lambda: now() + SETTLED)
    write_recipe(tmp_path / "recipe.yaml", output={"path": "./out"}, surgeries=[
        {"use": "lora", "at": {"role": "attention.q"}, "with": {"rank": 2}}
    ])  # fmt: skip
    return save_model(tmp_path / "base")


def apply(folder: Path, name: str) -> Path:
    given = ["--output", str(folder / name), "--stream", "--quiet"]
    assert main(["apply", str(folder / "recipe.yaml"), *given]) == 0
    return folder / name


def test_a_second_apply_and_a_merge_do_not_hash_the_base(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = apply(base.parent, "first")
    hashed, real = [], digests._hashed
    monkeypatch.setattr(digests, "_hashed", lambda *a: hashed.append(a[0]) or real(*a))
    second = apply(base.parent, "second")
    assert main(["merge", str(second), "--into", str(base.parent / "merged"), "--quiet"]) == 0
    assert hashed
    assert not [path for path in hashed if base in Path(path).parents]
    assert journal_in(first).base == journal_in(second).base


def test_damage_that_no_write_made_is_found(base: Path) -> None:
    out, file = apply(base.parent, "out"), base / "model.safetensors"
    known: Any = recall(state_of(file))
    with file.open("r+b") as stream:
        stream.seek(-2, 2)
        stream.write(b"\x3f")
    remember(state_of(file), known)
    checks = {check.name: check for check in verify(out, registry())}
    assert checks["base"].status == FAILED
    remember(state_of(file), known)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        surgery.load(out)
    remember(state_of(file), known)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        undo_all(out, base.parent / "back", registry())
