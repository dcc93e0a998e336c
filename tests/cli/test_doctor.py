"""Laws of ``surgery doctor``: what can keep surgery from working is found and told."""

from __future__ import annotations

import json
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checks.check import FAILED, PASSED, SKIPPED, WARNED, Check
from surgery.cli import main
from surgery.flow import environment as doctor
from surgery.flow.environment import devices, environment
from surgery.hooks.discover import Plugin, fault
from surgery.hooks.registry import Registry, registry
from tests.cli.conftest import Run
from tests.hooks.fakes import distribution, good


def named(checks: list[Check]) -> dict[str, Check]:
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    return found


def test_a_healthy_environment_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["doctor"]) == (True, "environment")
    names = [check["name"] for check in told["checks"]]
    for name in ("python", "model-surgery", "extra hf", "torch", "device cpu"):
        assert name in names
    assert any(name.startswith("plugin model-surgery ") for name in names)
    assert next(n for n in names if n.startswith("disk of ")) == "disk of working folder"
    assert main(["doctor"]) == 0
    assert f"ok    torch: {torch.__version__}" in capsys.readouterr().out


def test_broken_and_clashing_plugins_fail_by_name(surgery_command: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    distribution(site, "acme", good("scale"))
    distribution(site, "bolt", good("scale"))
    distribution(site, "cord", "raise ImportError('gone')", version="0.1")
    done = surgery_command("doctor", site=str(site))
    assert done.returncode == 1
    assert "FAIL  plugin cord 0.1: " in done.stdout
    assert "ImportError: gone" in done.stderr
    assert "FAIL  surgery 'scale': expected one plugin" in done.stdout
    assert "ok    plugin acme 1.0: surgery 1" in done.stdout


def test_each_fault_of_a_plugin_is_told() -> None:
    faults = tuple(fault(("acme", "1"), f"hook {n}", "a sequence", "None") for n in "ab")
    found = environment(Registry(plugins=(Plugin("acme", "1", "x", None),), faults=faults))
    (one,) = [check for check in found if check.name == "plugin acme 1"]
    assert one.status == FAILED
    assert "hook a" in one.detail
    assert "hook b" in one.detail


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Packages as somebody's environment might hold them."""
    said = Message()
    said["Version"] = "1.0"
    for extra in ("one", "both"):
        said["Provides-Extra"] = extra
    for text in (
        "core>=2", "first>=1; extra == 'one'", "second>=1; extra == 'both'",
        "model-surgery[one]; extra == 'both'", "other; sys_platform == 'none'",
    ):  # fmt: skip
        said["Requires-Dist"] = text
    held: dict[str, str | None] = {"core": "2.5", "first": "1.1", "second": "1.2"}
    monkeypatch.setattr(doctor, "metadata", lambda name: said)
    monkeypatch.setattr(doctor, "_version", held.get)
    return held


def packages() -> dict[str, Check]:
    return named(list(doctor._packages()))


def test_what_is_required_must_be_there_in_the_right_version(installed: dict[str, Any]) -> None:
    assert {c.status for c in packages().values()} == {PASSED}
    assert packages()["model-surgery"].detail == "1.0, with core 2.5"
    installed["core"] = "1.9"
    found = packages()["model-surgery"]
    assert found.status == FAILED
    assert "core 1.9 is installed, >=2 is needed; run: pip install 'model-surgery'" in found.detail
    installed["core"] = None
    assert packages()["model-surgery"].status == FAILED
    installed["core"] = "3.0rc1"
    assert packages()["model-surgery"].status == PASSED


def test_what_is_optional_may_be_missing_but_not_too_old(installed: dict[str, Any]) -> None:
    installed["first"] = None
    found = packages()["extra one"]
    assert found.status == SKIPPED
    assert found.detail == "not installed: first; run: pip install 'model-surgery[one]'"
    assert packages()["extra both"].status == PASSED
    installed["first"] = "0.9"
    assert packages()["extra one"].status == FAILED


def test_a_device_is_told_with_its_memory_and_a_sick_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda n: "H")

    def memory(number: int) -> tuple[int, int]:
        if number:
            raise RuntimeError("uncorrectable error\nmore")
        return 1 << 30, 2 << 30

    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    found = named(devices())
    assert found["device cuda:0"].detail == "H, 1.0 GiB of 2.0 GiB free"
    assert found["device cuda:1"] == Check(
        "device cuda:1", FAILED, "RuntimeError: uncorrectable error"
    )
    assert "accelerator" not in found


def test_a_full_disk_and_a_folder_that_is_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = doctor._disk("x", tmp_path / "not" / "yet")
    assert there.status == PASSED
    assert str(tmp_path / "not" / "yet") in there.detail
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert doctor._disk("x", tmp_path).status == WARNED


def test_the_doctors_of_plugins_still_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert "tokenizer" in registry().names("doctor")
    assert main(["doctor", "--help"]) == 0
    assert "tokenizer" in capsys.readouterr().out
    assert main(["doctor", "tokenizer", "/nowhere/at/all"]) != 0
    assert main(["doctor", "toknizer"]) == 2
