from __future__ import annotations

import subprocess
import sys

import pytest

from surgery.checkpoint.publish import publish
from surgery.errors import OutputError
from tests.checkpoint.writing import mark_of, strangers, write_output


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB in memory."""
    if sys.platform != "linux":
        pytest.skip("tmpfs is a file system of Linux")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def overfill(final, **options):
    with publish(final, **options) as folder:
        for number in range(300):
            (folder / str(number)).write_bytes(bytes(8192))


def test_a_disk_that_runs_full_is_one_clear_error(small_disk):
    with pytest.raises(OutputError, match="disk full: needs more, has"):
        overfill(small_disk / "out")
    assert strangers(small_disk / "out") == set()
    assert not (small_disk / "out").exists()


def test_a_disk_that_runs_full_leaves_the_old_output(small_disk):
    write_output(small_disk / "out", "a")
    with pytest.raises(OutputError, match="disk full"):
        overfill(small_disk / "out", force=True)
    assert mark_of(small_disk / "out") == "a"
    assert strangers(small_disk / "out") == set()
    write_output(small_disk / "out", "b", force=True)
    assert mark_of(small_disk / "out") == "b"


def test_a_disk_that_is_too_small_is_seen_before_any_work(small_disk):
    refused = pytest.raises(OutputError, match=r"disk full: needs 1\.\d MiB, has ")
    with refused, publish(small_disk / "out", needed_bytes=1 << 20):
        pytest.fail("the block ran")


def test_a_read_only_disk_is_one_clear_error(small_disk):
    command = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(command, check=True)
    with pytest.raises(OutputError, match="can be written"), publish(small_disk / "out"):
        pytest.fail("the block ran")


def test_a_mount_point_is_never_replaced(small_disk):
    refused = pytest.raises(OutputError, match="a mount point")
    with refused, publish(small_disk, force=True):
        pytest.fail("the block ran")
