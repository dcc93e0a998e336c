"""Every block of docs/large-and-remote.md runs, in order, beside a small served model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from surgery.cli import main
from tests.remote.kit import Server, here, tensors

PAGE = (Path(__file__).parents[2] / "docs" / "large-and-remote.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)
SERVER, CLUSTER = "http://127.0.0.1:8000", "tcp://127.0.0.1:8786"
ELSEWHERE = ("processes:", "dask:")


def lines() -> list[str]:
    return [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


def write_recipe(server: Server) -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "yaml")
    Path("recipe.yaml").write_text(text.replace(SERVER, server.url))


def run_line(line: str, server: Server, cluster: str = "") -> None:
    program, *arguments = shlex.split(line.replace(SERVER, server.url).replace(CLUSTER, cluster))
    assert program == "surgery"
    assert main([*arguments, "--quiet"]) == (1 if arguments[0] == "diff" else 0), line


def test_every_block_that_needs_no_other_process_runs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(server)
    mine = [line for line in lines() if not any(where in line for where in ELSEWHERE)]
    assert len(mine) == 11
    for line in mine:
        run_line(line, server)
    assert here(tmp_path / "base-again") == here(tmp_path / "served" / "base")
    names: dict[str, Any] = {}
    (text,) = (text for kind, text in BLOCKS if kind == "python")
    exec(compile(text, "docs/large-and-remote.md", "exec"), names)
    assert any("lora" in name for name, _ in names["model"].named_parameters())


@pytest.mark.slow
def test_the_blocks_that_need_other_processes_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.chdir(tmp_path)
    write_recipe(server)
    theirs = [line for line in lines() if any(where in line for where in ELSEWHERE)]
    assert len(theirs) == 2
    run_line(next(line for line in lines() if "threads:" in line), server)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address=None, silence_logs=50,
    ) as running:  # fmt: skip
        for line in theirs:
            run_line(line, server, running.scheduler_address)
    wanted = tensors(here(tmp_path / "out-threads"))
    assert wanted
    for name in ("out-processes", "out-cluster"):
        assert tensors(here(tmp_path / name)) == wanted
