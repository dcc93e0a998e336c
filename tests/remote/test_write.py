"""Laws of outputs behind URLs: complete there, or marked as unfinished."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

import surgery
from surgery.checkpoint import upload
from surgery.checkpoint.base import look_at
from surgery.checkpoint.fetch import UNFINISHED, fetched
from surgery.checkpoint.manifest import MANIFEST, write_manifest
from surgery.checkpoint.urls import RemoteFolder
from surgery.cli import main
from surgery.errors import IntegrityError, LockedError, MissingExtraError, OutputError, RecipeError
from surgery.flow.recipe import output_of
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from tests.remote.kit import LORA, MERGED, Server, held, here, in_memory, recipe, run

URL = "memory://place/out"


@pytest.mark.parametrize("save", ["changed", "full"])
def test_an_output_behind_a_url_is_the_same_as_here(base: Path, tmp_path: Path, save: str) -> None:
    run(tmp_path, base, tmp_path / "out", MERGED, save, way="stream")
    outcome = run(tmp_path, base, URL, MERGED, save, way="stream")
    assert held(URL) == here(tmp_path / "out")
    assert outcome.folder == RemoteFolder(URL)
    assert main(["verify", URL, "--quiet"]) == 0
    found, wanted = surgery.load(URL).model, surgery.load(tmp_path / "out").model
    assert found.state_dict().keys() == wanted.state_dict().keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, wanted.state_dict()[name])
    assert not list((tmp_path / "cache" / "outgoing").glob("[!.]*"))


def test_a_chain_of_commands_never_leaves_urls(base: Path, server: Server, tmp_path: Path) -> None:
    given = str(recipe(tmp_path, f"{server.url}/base", "./unused", LORA))
    assert main(["apply", given, "--output", "memory://lora", "--quiet"]) == 0
    assert main(["merge", "memory://lora", "--into", "memory://merged", "--quiet"]) == 0
    assert main(["verify", "memory://merged", "--quiet"]) == 0
    assert main(["diff", "memory://merged", f"{server.url}/base"]) == 1
    undo = ["undo", "memory://merged", "--into"]
    assert main([*undo, "memory://adapters", "--surgery", "1", "--quiet"]) == 0
    assert main(["verify", "memory://adapters", "--quiet"]) == 0
    assert main([*undo, "memory://again", "--quiet"]) == 0
    served = here(tmp_path / "served" / "base")
    assert held("memory://again") == served
    assert main(["diff", "memory://again", f"{server.url}/base"]) == 0
    assert not (tmp_path / "unused").exists()


def test_a_result_in_memory_is_saved_behind_a_url(base: Path) -> None:
    source = registry().source("hf").model_validate({"path": str(base)})
    applied = surgery.apply(source.load(), LORA)
    assert applied.save(URL) == RemoteFolder(URL)
    again = surgery.load(URL, source.load())
    assert again.model.state_dict().keys() == applied.model.state_dict().keys()


def test_what_stands_there_is_replaced_only_by_force(base: Path, tmp_path: Path) -> None:
    before = held(in_memory(base, "place/out"))
    with pytest.raises(OutputError, match="--force"):
        run(tmp_path, base, URL, LORA)
    assert held(URL) == before
    run(tmp_path, base, URL, LORA, force=True)
    assert MANIFEST in held(URL)
    assert not held(URL).keys() & {"model-00001-of-00004.safetensors"}
    assert main(["verify", URL, "--quiet"]) == 0


class Death(BaseException):
    """Stand for the end of a process."""


def dying(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Die at one of the changes of the server."""
    real, left = upload._writing, [moment]

    def writing(url: str, change: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Death
        real(url, change)

    monkeypatch.setattr(upload, "_writing", writing)
    monkeypatch.setattr(upload, "_AT_ONCE", 1)


def publish_some(files: dict[str, bytes], **how: Any) -> dict[str, bytes]:
    """Publish files with a manifest behind a URL; give what must stand there."""
    with upload.publish_at(RemoteFolder(URL), **how) as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        write_manifest(folder)
        return here(folder)


NEW = {"a.json": b"new", "b.json": b"new", "surgery/c.json": b"new"}
OLD = {"a.json": b"old", "old.json": b"old"}


@pytest.mark.parametrize("old", [{}, OLD], ids=["nothing before", "something before"])
def test_whatever_the_moment_of_death_an_output_without_the_mark_is_complete(
    old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, marked = publish_some(NEW), 0
    for moment in range(1, 100):
        clear()
        before = publish_some(old) if old else {}
        with monkeypatch.context() as patch:
            dying(patch, moment)
            try:
                publish_some(NEW, force=bool(old))
            except Death:
                pass
            else:
                break
        found = held(URL)
        marked += UNFINISHED in found
        if UNFINISHED in found:
            assert set(json.loads(found[UNFINISHED])["files"]) == wanted.keys()
            assert_refused()
        else:
            assert found in (before, wanted)
        assert publish_some(NEW, force=found == before) == wanted == held(URL)
    assert held(URL) == wanted
    assert marked >= 6


def assert_refused() -> None:
    """Demand that nobody reads what is unfinished."""
    for read in (fetched, surgery.load, look_at):
        with pytest.raises(IntegrityError, match="complete folder"):
            read(URL)


def clear() -> None:
    """Forget what was written."""
    fsspec.filesystem("memory").rm("/place", recursive=True)


def test_a_server_that_refuses_is_an_error_and_leaves_a_mark(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    real = MemoryFileSystem.put_file

    def put(self: Any, local: str, path: str, **options: Any) -> None:
        if path.endswith("changed.safetensors"):
            raise PermissionError("no more")
        real(self, local, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", put)
        with pytest.raises(OutputError, match=r"changed\.safetensors.*no more"):
            run(tmp_path, base, URL, LORA)
    assert UNFINISHED in held(URL)
    run(tmp_path, base, URL, LORA)
    assert UNFINISHED not in held(URL)


def test_a_failed_apply_sends_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(surgery.SurgeryError):
        run(tmp_path, base, URL, [{"use": "lora", "at": {"path": "nothing.like.this"}}])
    assert held(URL) == {}


def test_two_runs_of_this_machine_do_not_write_one_output(base: Path, tmp_path: Path) -> None:
    with upload.publish_at(RemoteFolder(URL)), pytest.raises(LockedError):
        run(tmp_path, base, URL, LORA)


def test_http_is_for_reading(base: Path, server: Server, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="list and write"):
        run(tmp_path, base, f"{server.url}/out", LORA)


def test_training_writes_on_this_machine(base: Path, tmp_path: Path) -> None:
    read = read_recipe(str(recipe(tmp_path, base, URL, LORA)), registry=registry())
    with pytest.raises(RecipeError, match="folder of this machine"):
        output_of(read)


@pytest.mark.parametrize(
    ("hidden", "url"),
    [("fsspec.core", "memory://base"), ("aiohttp", "http://127.0.0.1:1/base")],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    hidden: str, url: str, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = sys.modules["fsspec.registry"]
    monkeypatch.setitem(sys.modules, hidden, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(known._registry, "http", raising=False)
    for act in (
        lambda: run(tmp_path, url, tmp_path / "out", LORA),
        lambda: fetched(url),
    ):
        with pytest.raises(MissingExtraError, match=r"model-surgery\[remote\]"):
            act()
