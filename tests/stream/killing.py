"""Run commands in children of a warm process, and let each be killed at a random moment.

Given on the command line: a JSON object with ``commands``, the arguments of each; ``moments``,
how often each is killed; ``signal``; ``seed``; and ``base``, whose files nobody may open to write.
Each child either ends by the signal at a random one of its file events, or after a random time.
Between two children one line of JSON says what happened, and a line is read before the next.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

from surgery.cli import main
from surgery.cli.run import run as command_line

EVENTS = {
    "open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate",
    "os.listdir", "os.scandir", "shutil.copyfile", "shutil.rmtree", "os.utime", "fcntl.flock",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
ESCAPED = 98


class Moment:
    """Count the file events of this process, and send it a signal at one of them."""

    def __init__(self, number: int, sign: int, base: Path) -> None:
        self.left, self.seen, self.sign = number, 0, sign
        self.base = {(s.st_dev, s.st_ino) for s in map(os.stat, files_of(base))}
        self.broken = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS:
            return
        if event == "open" and arguments[2] and arguments[2] & WRITING:
            self._look(arguments[0])
        self.seen += 1
        if self.seen == self.left:
            os.kill(os.getpid(), self.sign)

    def _look(self, path: Any) -> None:
        try:
            found = os.stat(path)
        except (OSError, TypeError, ValueError):
            return
        self.broken = self.broken or (found.st_dev, found.st_ino) in self.base


def files_of(folder: Path) -> list[Path]:
    """List the files of a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def interrupt(_: int, frame: FrameType | None) -> None:
    """Raise what Ctrl-C raises while the command runs, and nothing before or after it."""
    while frame is not None:
        if frame.f_code is command_line.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back


def child(arguments: list[str], number: int, sign: int, base: Path) -> int:
    """Fork a child that runs a command; give its process id."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child can hear it
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return pid
    status, moment = ESCAPED, Moment(number, sign, base)
    try:
        signal.signal(signal.SIGINT, interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.addaudithook(moment)
        status = main(arguments)
    finally:
        if moment.broken:
            status = 99
        Path(os.environ["COUNT"]).write_text(str(moment.seen))
        os._exit(status)


def ended(pid: int) -> int:
    """Wait for a child; give its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def measure(arguments: list[str], base: Path) -> tuple[int, float]:
    """Run a command to its end; give its file events and its time in seconds."""
    begin = time.perf_counter()
    status = ended(child(arguments, 0, signal.SIGKILL, base))
    assert status == 0, (arguments, status)
    return int(Path(os.environ["COUNT"]).read_text()), time.perf_counter() - begin


def once(arguments: list[str], draw: random.Random, about: Any, sign: int, base: Path) -> int:
    """Kill one run at a random moment."""
    events, seconds = about
    by_event = draw.random() < 0.7
    pid = child(arguments, draw.randint(1, events) if by_event else 0, sign, base)
    if not by_event:
        time.sleep(draw.uniform(0, seconds))
        os.kill(pid, sign)
    return ended(pid)


def run(given: dict[str, Any]) -> None:
    """Kill each command many times, one line of JSON for each."""
    draw, base, sign = random.Random(given["seed"]), Path(given["base"]), int(given["signal"])
    with redirect_stdout(sys.stderr):
        for command in given["commands"]:  # import all that they need, before the first fork
            assert main([*command["measured"][:-1], command["warm"], "--quiet"]) == 0
    for number, command in enumerate(given["commands"]):
        about = measure(command["measured"], base)
        for _ in range(given["moments"]):
            status = once(command["killed"], draw, about, sign, base)
            print(json.dumps({"command": number, "status": status}), flush=True)
            sys.stdin.readline()


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
