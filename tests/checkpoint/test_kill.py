from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest

from tests.checkpoint.writing import mark_of, strangers, write_output

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is a signal of POSIX")

CHILD = """
import sys
from pathlib import Path
from tests.checkpoint.writing import write_output
print("ready", flush=True)
write_output(Path(sys.argv[1]), sys.argv[2], force=True)
"""


def start(final, mark):
    """Start a writer, and wait until it is about to write."""
    command = [sys.executable, "-c", CHILD, str(final), mark]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    return child


def duration(final):
    """Measure how long a writer takes that nobody kills, in seconds."""
    child = start(final, "z")
    begin = time.perf_counter()
    assert child.wait(60) == 0
    return time.perf_counter() - begin


def kill_at_random(tmp_path, count, seed):
    """Kill writers at random moments; give how many were still alive."""
    final, draw, killed, old = tmp_path / "out", random.Random(seed), 0, None
    longest = min(duration(tmp_path / "measured" / mark) for mark in "abc")
    (tmp_path / "measured").rename(tmp_path / ".measured")
    for number in range(count):
        child = start(final, str(number % 10))
        time.sleep(draw.uniform(0, longest))
        child.send_signal(signal.SIGKILL)
        killed += child.wait(60) == -signal.SIGKILL
        child.stdout.close()
        found = mark_of(final)
        assert found in {old, str(number % 10)}
        old = found
    write_output(final, "z", force=True)
    assert mark_of(final) == "z"
    assert strangers(final) == {".measured"}
    return killed


def test_killed_writers_leave_the_old_or_the_new_output(tmp_path):
    assert kill_at_random(tmp_path, 15, seed=0) >= 5


@pytest.mark.slow
def test_many_killed_writers_leave_the_old_or_the_new_output(tmp_path):
    assert kill_at_random(tmp_path, 150, seed=1) >= 50


def test_the_lock_of_a_killed_writer_is_free(tmp_path):
    script = CHILD.replace("write_output(Path", "hold(Path").replace(
        "from tests.checkpoint.writing import write_output",
        "import time\nfrom surgery.checkpoint.publish import publish\n"
        "def hold(final, mark, force):\n"
        "    with publish(final) as folder:\n"
        "        print('holding', flush=True)\n"
        "        time.sleep(60)\n",
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out"), "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert [child.stdout.readline() for _ in range(2)] == [b"ready\n", b"holding\n"]
        assert strangers(tmp_path / "out") == {f".out.tmp-{child.pid}"}
        child.kill()
    write_output(tmp_path / "out", "b")
    assert mark_of(tmp_path / "out") == "b"
    assert strangers(tmp_path / "out") == set()
