"""Laws of executors: the same bytes come out, wherever files are computed and whoever dies."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint.header import read_header
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.writer import write_tensors
from surgery.cli import main
from surgery.errors import (
    IntegrityError,
    MissingExtraError,
    PluginError,
    Problems,
    RecipeError,
    RefusedError,
    SurgeryError,
)
from surgery.flow.executors import Processes, executor_of
from surgery.flow.jobs import pack, run_elsewhere, run_packed
from surgery.flow.shards import write_files
from surgery.flow.write import Engine
from surgery.hooks.discover import load_file
from surgery.operate.slots import compute
from tests.stream.models import save
from tests.stream.tasks import (
    Odd,
    assert_complete,
    compute_nothing,
    made_task,
    tasks_with,
    threads_now,
)
from tests.stream.test_equal import STEPS, files, run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("executors") / "base", True)


@pytest.fixture(scope="module")
def wanted(base: Path) -> dict[str, bytes]:
    run(base, STEPS["merged"], "stream", "wanted", "full")
    return files(base.parent / "wanted")


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with executor_of("processes:1") as executor:
        assert executor is not None
        yield executor


def test_processes_give_the_same_bytes_in_a_bounded_memory(
    pool: Executor, base: Path, wanted: dict[str, bytes]
) -> None:
    engine = Engine(memory=10_000, executor=pool)
    outcome = run(base, STEPS["merged"], "stream", "processes", "full", engine=engine)
    assert files(outcome.folder) == wanted
    live = run(base, STEPS["merged"], "live", "held", "full", engine=Engine(executor=pool))
    assert files(live.folder) == wanted


def test_threads_give_the_same_bytes(base: Path, wanted: dict[str, bytes]) -> None:
    with executor_of("threads:3") as threads:
        engine = Engine(executor=threads)
        outcome = run(base, STEPS["merged"], "stream", "threads", "full", engine=engine)
    assert files(outcome.folder) == wanted


def test_the_number_of_torch_threads_does_not_matter(base: Path, wanted: dict[str, bytes]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        outcome = run(base, STEPS["merged"], "stream", "four", "full")
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert files(outcome.folder) == wanted


class Counted(Executor):
    """Run tasks one after another, when they are waited for; count those under way."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.futures.append(future)
        self.most = max(self.most, sum(not one.done() for one in self.futures))
        from threading import Timer

        Timer(0.02, lambda: future.set_result(fn(*args, **kwargs))).start()
        return future


def test_memory_bounds_what_any_executor_has_under_way(tmp_path: Path) -> None:
    tasks = [made_task(tmp_path / f"{n}.safetensors") for n in range(6)]
    counted = Counted()
    write_files(tasks, memory=2 * tasks[0].memory, executor=counted)
    assert counted.most == 2
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(RefusedError, match="--memory"):
        write_files(tasks, memory=tasks[0].memory - 1, executor=counted)


@pytest.mark.slow
def test_a_killed_process_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tasks = tasks_with(tmp_path / "out", Odd("die", str(tmp_path / "mark")))
    with executor_of("processes:1") as pool:
        written = write_files(tasks, executor=pool)
        assert [one.path.name for one in written] == [task.path.name for task in tasks]
        assert_complete(tasks)


@pytest.mark.slow
def test_processes_that_are_always_killed_are_an_error(tmp_path: Path) -> None:
    wanted = pytest.raises(SurgeryError, match=r"killed 3 times.*memory")
    with executor_of("processes:1") as pool, wanted:
        write_files(tasks_with(tmp_path, Odd("die")), executor=pool)


def test_an_error_in_a_process_is_one_clear_error(pool: Executor, tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match=r"2\.safetensors.*ZeroDivisionError: one by zero"):
        write_files(tasks_with(tmp_path, Odd("fail")), executor=pool)
    with pytest.raises(Problems) as caught:
        write_files(tasks_with(tmp_path, Odd("refuse")), executor=pool)
    assert [type(one) for one in caught.value.problems] == [IntegrityError, RecipeError]
    assert caught.value.exit_status == 4


@pytest.mark.parametrize(
    "error",
    [
        MissingExtraError("here", "dask", "cluster"), IntegrityError("a", "b", "c", "d"),
        Problems("file", [RecipeError("x", "y", "z")]),
    ],
    ids=lambda error: error.code,
)  # fmt: skip
def test_errors_survive_the_way_to_another_process(error: SurgeryError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.to_json() == error.to_json()
    assert (str(again), again.exit_status) == (str(error), error.exit_status)


def test_what_cannot_travel_is_refused_by_name(tmp_path: Path, pool: Executor) -> None:
    task = made_task(tmp_path / "x.safetensors", lambda tensor, generator: tensor.fill_(1.0))
    with pytest.raises(PluginError, match=r"x\.safetensors.*another process"):
        write_files([task], executor=pool)


def test_values_of_a_local_plugin_are_computed_in_processes(tmp_path: Path, pool: Executor) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("def ones(tensor, generator):\n    tensor.fill_(1.0)\n")
    loaded: Any = load_file(plugin).hooks
    (tmp_path / "out").mkdir()
    tasks = [made_task(tmp_path / "out" / "x.safetensors", loaded.ones)]
    assert pack(compute, loaded.ones, "x").plugins == (plugin.resolve(),)
    assert pack(compute, Odd(), "x").plugins == ()
    write_files(tasks, executor=pool)
    assert_complete(tasks)
    plugin.write_text("def ones(tensor, generator):\n    tensor.fill_(2.0)\n")
    with pytest.raises(PluginError, match="same packages and plugins"):
        run_elsewhere(
            compute_nothing, [loaded.ones], Processes(1), named=str, at_once=1, done=str
        )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "threads", "threads:0", "threads:x", "processes:-1", "dask", "dask:", "rows:3"]
)
def test_a_wrong_executor_is_a_mistake_on_the_command_line(text: str) -> None:
    with pytest.raises(RecipeError, match="threads:N"), executor_of(text):
        pass


def test_a_missing_cluster_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    wanted = pytest.raises(MissingExtraError, match=r"model-surgery\[cluster\]")
    with wanted, executor_of("dask:tcp://127.0.0.1:1"):
        pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address=None, silence_logs=50,
    ) as running:  # fmt: skip
        yield running


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes_by_the_command(
    cluster: Any, base: Path, wanted: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(base.parent / "wanted.yaml")
    out = base.parent / "clustered"
    where = f"dask:{cluster.scheduler_address}"
    given = ["apply", recipe, "--output", str(out), "--stream", "--executor", where]
    assert main([*given, "--memory", "1MB"]) == 0, capsys.readouterr()
    assert files(out) == wanted
    assert main(["verify", str(out), "--quiet"]) == 0


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_costs_nothing_but_time(
    cluster: Any, tmp_path: Path
) -> None:
    from threading import Thread

    (tmp_path / "out").mkdir()
    mark = tmp_path / "mark"
    tasks = tasks_with(tmp_path / "out", Odd("wait", str(mark)))

    def kill() -> None:
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        os.kill(int(mark.read_text()), signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    with executor_of(f"dask:{cluster.scheduler_address}") as executor:
        write_files(tasks, executor=executor)
    killer.join()
    assert int(mark.read_text()) != os.getpid()
    assert_complete(tasks)


@pytest.mark.slow
def test_a_task_that_fails_on_a_cluster_is_one_clear_error(cluster: Any, tmp_path: Path) -> None:
    wanted = pytest.raises(SurgeryError, match=r"2\.safetensors.*one by zero")
    with executor_of(f"dask:{cluster.scheduler_address}") as executor, wanted:
        write_files(tasks_with(tmp_path, Odd("fail")), executor=executor)


@pytest.mark.slow
def test_workers_of_a_cluster_that_are_always_killed_are_an_error(
    cluster: Any, tmp_path: Path
) -> None:
    wanted = pytest.raises(SurgeryError, match="Killed")
    with executor_of(f"dask:{cluster.scheduler_address}") as executor, wanted:
        write_files(tasks_with(tmp_path, Odd("die")), executor=executor)


def test_no_cluster_at_an_address_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="running scheduler"), executor_of("dask:nothing"):
        pass


def test_a_packed_task_runs_on_one_thread(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run_packed(pack(threads_now, None, "x")) == 1
    finally:
        torch.set_num_threads(before)


def test_leftovers_of_killed_workers_are_no_part_of_the_output(
    pool: Executor, tmp_path: Path
) -> None:
    (tmp_path / ".0.safetensors.0123.part").write_bytes(b"half")
    tasks = tasks_with(tmp_path, Odd())
    write_files(tasks, executor=pool)
    assert_complete(tasks)


def test_a_file_in_use_is_never_written_into(tmp_path: Path) -> None:
    """A link of the base's file stands under the output's name: the base keeps its bytes."""
    old = tmp_path / "base.safetensors"
    write_tensors(old, [("w", "float32", (8,), lambda: torch.zeros(8))])
    os.link(old, tmp_path / "x.safetensors")
    write_files([made_task(tmp_path / "x.safetensors")])
    assert torch.equal(TensorReader(old).get("w"), torch.zeros(8))
    assert torch.equal(TensorReader(tmp_path / "x.safetensors").get("w"), torch.ones(8))
    assert read_header(old).entries.keys() == {"w"}
