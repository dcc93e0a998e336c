from __future__ import annotations

import hashlib
import json
import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from surgery.checkpoint.manifest import (
    MANIFEST,
    check_manifest,
    digest_files,
    write_manifest,
)
from surgery.errors import IntegrityError, Problems

FILES = ("changed.safetensors", "surgery.json", "deep/part", "empty", MANIFEST)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "out"
    (path / "deep").mkdir(parents=True)
    save_file({"a": torch.arange(4.0)}, path / "changed.safetensors")
    (path / "surgery.json").write_text('{"journal": 1}')
    (path / "deep" / "part").write_text("part")
    (path / "empty").touch()
    write_manifest(path)
    return path


def problems(folder, **options) -> dict[str, str]:
    """Give what was found, by the file's path in the folder."""
    with pytest.raises(Problems) as caught:
        check_manifest(folder, **options)
    assert all(isinstance(one, IntegrityError) for one in caught.value.problems)
    assert caught.value.exit_status == 4
    return {one.where.removeprefix(f"{folder}{os.sep}"): one.found for one in caught.value.problems}


@pytest.mark.parametrize("fast", [False, True])
def test_a_folder_agrees_with_its_manifest(folder, fast):
    check_manifest(folder, fast=fast)


def test_a_moved_folder_agrees_with_its_manifest(folder):
    check_manifest(folder.rename(folder.parent / "moved"))


def test_the_same_files_give_the_same_manifest(folder):
    first = (folder / MANIFEST).read_bytes()
    write_manifest(folder)
    assert (folder / MANIFEST).read_bytes() == first


def test_the_manifest_can_be_checked_by_other_tools(folder):
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert set(files) == {*FILES} - {MANIFEST}
    for name, item in files.items():
        content = (folder / name).read_bytes()
        assert item == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("name", [name for name in FILES if name != "empty"])
def test_every_single_changed_byte_is_found(folder, name):
    content = (folder / name).read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        (folder / name).write_bytes(changed)
        with pytest.raises((Problems, IntegrityError)):
            check_manifest(folder)
    (folder / name).write_bytes(content)
    check_manifest(folder)


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_changed_byte_of_any_file_is_found(folder, data):
    name = data.draw(st.sampled_from([name for name in FILES if name != "empty"]))
    content = (folder / name).read_bytes()
    place, value = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))
    changed = content[:place] + bytes([value]) + content[place + 1 :]
    (folder / name).write_bytes(changed)
    try:
        if changed == content:
            check_manifest(folder)
        else:
            with pytest.raises((Problems, IntegrityError)):
                check_manifest(folder)
    finally:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_or_longer_is_found(folder, name, fast):
    content = (folder / name).read_bytes()
    for changed in (content[:-1], content + b"\n"):
        if changed == content:
            continue
        (folder / name).write_bytes(changed)
        with pytest.raises((Problems, IntegrityError)):
            check_manifest(folder, fast=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_missing_and_extra_files_are_reported_together(folder, fast):
    (folder / "empty").unlink()
    (folder / "deep" / "part").unlink()
    (folder / "deep" / "more").touch()
    assert problems(folder, fast=fast) == {
        "deep/more": "an extra file",
        "deep/part": "nothing there",
        "empty": "nothing there",
    }


def test_all_changed_files_are_reported_together(folder):
    (folder / "surgery.json").write_text('{"journal": 2}')
    (folder / "deep" / "part").write_text("longer than it was")
    found = problems(folder)
    assert set(found) == {"surgery.json", "deep/part"}
    assert found["deep/part"] == "18 bytes"
    assert found["surgery.json"].startswith("sha256 ")


def test_a_fast_check_reads_sizes_and_headers_only(folder):
    (folder / "surgery.json").write_text('{"journal": 2}')
    check_manifest(folder, fast=True)
    content = bytearray((folder / "changed.safetensors").read_bytes())
    content[8] = ord(" ")
    (folder / "changed.safetensors").write_bytes(content)
    assert set(problems(folder, fast=True)) == {"changed.safetensors"}


def test_a_missing_manifest_is_named(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(IntegrityError, match="nothing there") as caught:
        check_manifest(folder)
    assert caught.value.where.endswith(MANIFEST)


def sealed(**fields) -> str:
    """Seal a manifest as an attacker would who knows how it is done."""
    text = json.dumps(fields, indent=1, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**fields, "sha256": digest}, indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        sealed(),
        sealed(manifest=2, files={}),
        sealed(manifest=1, files=[]),
        sealed(manifest=1, files={"a": {}}),
        sealed(manifest=1, files={"a": 1}),
        sealed(manifest=1, files={"a": {"size": 1}}),
    ],
)
def test_a_manifest_of_another_form_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(IntegrityError):
        check_manifest(folder)


def test_names_in_a_manifest_lead_nowhere(folder):
    (folder.parent / "secret").write_text("x")
    digest = digest_files({"s": folder.parent / "secret"})["s"]
    (folder / MANIFEST).write_text(sealed(manifest=1, files={"../secret": digest}))
    assert problems(folder)["../secret"] == "nothing there"


def test_a_link_to_a_folder_is_extra(folder):
    (folder / "link").symlink_to("deep")
    assert problems(folder) == {"link": "an extra file"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_no_file_and_is_not_read(folder):
    (folder / "deep" / "part").unlink()
    os.mkfifo(folder / "deep" / "part")
    assert problems(folder) == {"deep/part": "a link or a device"}
    with pytest.raises(IntegrityError, match="plain file"):
        write_manifest(folder)


def test_progress_adds_up_to_the_bytes_of_the_files(folder):
    (folder / "deep" / "part").write_bytes(bytes(9_000_000))
    write_manifest(folder)
    seen: list[int] = []
    check_manifest(folder, progress=seen.append)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    assert sum(seen) == size
    assert len(seen) > 3


def test_digests_keep_the_order_of_the_files(tmp_path):
    files = {str(n): tmp_path / str(n) for n in reversed(range(20))}
    for name, path in files.items():
        path.write_text(name)
    found = digest_files(files)
    assert list(found) == list(files)
    assert found["7"] == {"size": 1, "sha256": hashlib.sha256(b"7").hexdigest()}
    assert digest_files(files, fast=True)["17"] == {"size": 2}


@pytest.mark.parametrize("fast", [False, True])
def test_a_file_that_cannot_be_read_is_named(tmp_path, fast):
    with pytest.raises(IntegrityError, match="none: expected a file that can be read"):
        digest_files({"none": tmp_path / "none"}, fast=fast)


def test_no_torch_is_needed_to_check_a_folder(folder):
    import subprocess

    script = (
        "import sys; from pathlib import Path\n"
        "from surgery.checkpoint.manifest import check_manifest\n"
        "import surgery.checkpoint.tensors, surgery.checkpoint.writer, surgery.checkpoint.index\n"
        "import surgery.checkpoint.publish, surgery.checkpoint.pickles\n"
        "check_manifest(Path(sys.argv[1])); print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
