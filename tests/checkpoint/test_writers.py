from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from surgery.checkpoint.publish import publish
from surgery.errors import LockedError, OutputError
from tests.checkpoint.writing import fill, mark_of


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_second_writer_is_told_at_once_who_writes(final):
    with publish(final):
        script = (
            "import sys; from pathlib import Path\n"
            "from surgery.checkpoint.publish import publish\n"
            "from surgery.errors import LockedError\n"
            "try:\n"
            "    with publish(Path(sys.argv[1])): print('wrote')\n"
            "except LockedError as error: print(error.exit_status, error)\n"
        )
        command = [sys.executable, "-c", script, str(final)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("5 ")
    assert f"is being written by pid {os.getpid()}" in done.stdout


def test_of_many_threads_one_writes_and_the_others_are_refused(final):
    results, gate, done = [], threading.Barrier(4), threading.Barrier(4)

    def run(mark: str) -> None:
        gate.wait()
        try:
            with publish(final) as folder:
                done.wait()
                fill(folder, mark)
            results.append(mark)
        except LockedError:
            results.append("locked")
            done.wait()

    threads = [threading.Thread(target=run, args=(mark,)) for mark in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("locked") == 3
    assert mark_of(final) in results


@contextmanager
def ordinary_user():
    """Be a user whom modes bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="modes do not bind on Windows")
def test_a_folder_without_write_permission_is_one_clear_error():
    with TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        refused = pytest.raises(OutputError, match="may write to")
        with ordinary_user(), refused, publish(Path(name) / "out"):
            pytest.fail("the block ran")
        Path(name).chmod(0o755)


def test_a_denied_file_elsewhere_is_not_blamed_on_the_output(final):
    with pytest.raises(PermissionError), publish(final):
        raise PermissionError(13, "Permission denied", "/elsewhere/model.safetensors")
    assert not final.exists()
