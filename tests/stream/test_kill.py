"""Laws of crashes: whatever the moment, the final name holds nothing or a complete output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgery.checks.check import FAILED
from surgery.cli import main
from surgery.flow.verify import verify
from surgery.hooks.registry import registry
from tests.stream.models import save
from tests.stream.test_equal import files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL and audit events of files")

QV = {"role": ["attention.q", "attention.v"]}
LORA = [{"use": "lora", "at": QV, "with": {"rank": 2, "init": "gaussian"}}]
LABELS = [{"use": "rope", "with": {"context": 4096}}]


def recipe(folder: Path, name: str, steps: Any, how: str) -> str:
    path = folder / f"{name}.yaml"
    output = {"path": f"./{name}", "save": how, "also": ["peft"] if how == "changed" else []}
    patient = {"source": "hf", "path": str(folder / "base")}
    path.write_text(json.dumps(
        {"recipe": 1, "patient": patient, "surgeries": steps, "output": output}
    ))  # fmt: skip
    return str(path)


def commands(folder: Path) -> dict[str, list[str]]:
    """Give what is killed; each lacks where it writes."""
    changed = recipe(folder, "changed", LORA, "changed")
    full = recipe(folder, "full", [*LORA, {"use": "merge"}, *LABELS], "full")
    assert main(["apply", changed, "--quiet"]) == 0
    assert main(["merge", str(folder / "changed"), "--into", str(folder / "merged"), "-q"]) == 0
    return {
        "apply stream": ["apply", changed, "--stream", "--output"],
        "apply stream full": ["apply", full, "--stream", "--output"],
        "apply live full": ["apply", full, "--live", "--force", "--output"],
        "merge": ["merge", str(folder / "changed"), "--stream", "--into"],
        "undo": ["undo", str(folder / "merged"), "--surgery", "1", "--stream", "--into"],
        "undo all": ["undo", str(folder / "merged"), "--force", "--into"],
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save("llama", tmp_path / "base", True)
    return tmp_path


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def killed(place: Path, moments: int, sign: int, seed: int) -> Iterator[tuple[str, Path, int]]:
    """Kill commands at random moments; give which, where it writes, and its exit status."""
    given, listed = commands(place), []
    for number, arguments in enumerate(given.values()):
        out = place / f"out-{number}"
        listed.append({
            "measured": [*arguments, str(place / "measured" / str(number))],
            "killed": [*arguments, str(out)],
            "warm": str(place / "warm" / str(number)),
        })  # fmt: skip
    asked = {
        "commands": listed, "moments": moments, "signal": sign, "seed": seed,
        "base": str(place / "base"),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stream.killing", json.dumps(asked)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "COUNT": str(place / "count"), "OMP_NUM_THREADS": "1"},
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            found = json.loads(line)
            name = list(given)[found["command"]]
            yield name, place / f"out-{found['command']}", found["status"]
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0


def assert_nothing_or_complete(name: str, out: Path, measured: Path) -> bool:
    """Demand what must hold after a kill; tell whether an output stands there."""
    if not out.exists():
        return False
    assert files(out) == files(measured), name
    if name != "undo all":
        assert not [one for one in verify(out, registry()) if one.status == FAILED], name
    return True


def strangers(place: Path, out: Path) -> set[str]:
    return {path.name for path in place.iterdir() if path.name.startswith(f".{out.name}.")}


def kill_many(place: Path, moments: int, seed: int) -> tuple[int, int]:
    """Kill commands; give how many were killed, and how many left an output."""
    died, left, base = 0, 0, state(place / "base")
    for name, out, status in killed(place, moments, signal.SIGKILL, seed):
        assert status in (0, -signal.SIGKILL), (name, status)
        died += status != 0
        assert state(place / "base") == base
        stands = assert_nothing_or_complete(name, out, place / "measured" / out.name[4:])
        left += stands
        if stands and status == 0:
            assert strangers(place, out) <= {f".{out.name}.lock"}
        if stands and "force" not in name:
            shutil.rmtree(out)
    for number, arguments in enumerate(commands_again(place)):
        out = place / f"out-{number}"
        assert main([*arguments, str(out), "--quiet", *["--force"]]) == 0
        assert files(out) == files(place / "measured" / str(number))
        assert strangers(place, out) == {f".{out.name}.lock"}
    assert state(place / "base") == base
    return died, left


def commands_again(place: Path) -> list[list[str]]:
    """Give the commands without making their inputs anew."""
    changed, full = str(place / "changed.yaml"), str(place / "full.yaml")
    merged = str(place / "merged")
    return [
        ["apply", changed, "--stream", "--output"],
        ["apply", full, "--stream", "--output"],
        ["apply", full, "--live", "--output"],
        ["merge", str(place / "changed"), "--stream", "--into"],
        ["undo", merged, "--surgery", "1", "--stream", "--into"],
        ["undo", merged, "--into"],
    ]


def test_a_killed_command_leaves_nothing_or_all(place: Path) -> None:
    died, _ = kill_many(place, 2, seed=0)
    assert died >= 4


@pytest.mark.slow
def test_many_killed_commands_leave_nothing_or_all(place: Path) -> None:
    died, left = kill_many(place, 34, seed=1)
    assert died >= 150
    assert left >= 5


def interrupted(place: Path, moments: int, seed: int) -> int:
    count, base = 0, state(place / "base")
    for name, out, status in killed(place, moments, signal.SIGINT, seed):
        assert status in (0, 130), (name, status)
        count += status == 130
        assert strangers(place, out) <= {f".{out.name}.lock"}, (name, status)
        stands = assert_nothing_or_complete(name, out, place / "measured" / out.name[4:])
        assert stands or status == 130
        if stands:
            shutil.rmtree(out)
        assert state(place / "base") == base
    return count


@pytest.mark.slow
def test_ctrl_c_at_many_moments_leaves_nothing_and_says_130(place: Path) -> None:
    assert interrupted(place, 12, seed=1) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_command(place: Path, sign: signal.Signals) -> None:
    plugin = place / "slow.py"
    plugin.write_text(SLOW.format(mark=str(place / "mark")))
    path = recipe(place, "out", [{"use": "slow", "at": {"path": "**.norm"}}], "changed")
    Path(path).write_text(Path(path).read_text().replace('"peft"', ""))
    command = [sys.executable, "-m", "surgery", "apply", path, "--plugin", str(plugin), "--stream",
               "--executor", "processes:1"]  # fmt: skip
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    )
    worker = wait_for_number(place / "mark")
    os.killpg(child.pid, sign) if sign == signal.SIGINT else child.send_signal(sign)
    _, said = child.communicate(timeout=60)
    assert child.returncode == (130 if sign == signal.SIGINT else -sign)
    assert "Traceback" not in said
    wait_until_gone(worker)
    assert not (place / "out").exists()
    if sign == signal.SIGINT:
        assert strangers(place, place / "out") == {".out.lock"}


def hear_ctrl_c() -> None:
    """Do not inherit that SIGINT is ignored, as what a shell starts in the background does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for_number(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise AssertionError("no worker began")


def wait_until_gone(pid: int) -> None:
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the worker lives on")


SLOW = '''
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from surgery import Surgery, hookimpl
from surgery.operate.edits import Derive, Rewrite


def slow(*old, generator):
    Path({mark!r}).write_text(str(os.getpid()))
    for _ in range(50):
        time.sleep(0.1)
    return old[0]


class Slow(Surgery):
    """Change two tensors slowly."""

    name: ClassVar[str] = "slow"
    api: ClassVar[int] = 1

    def refuse(self, site):
        return None if site.path.endswith(("norm.weight", "norm")) else "not here"

    def operate(self, sites, patient):
        for name, tensor in patient.model.named_parameters():
            if name.endswith(("model.norm.weight", "layers.0.input_layernorm.weight")):
                yield Rewrite(name, tuple(tensor.shape), "float32", Derive((name,), slow))


@hookimpl
def surgery_surgeries():
    return [Slow]
'''
