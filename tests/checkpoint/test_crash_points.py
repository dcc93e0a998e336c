from __future__ import annotations

import os
from contextlib import suppress

import pytest

from surgery.checkpoint import exchange
from surgery.errors import SurgeryError
from tests.checkpoint.faults import EXIT, crash, disk_full, fault_at, in_fork, interrupt
from tests.checkpoint.writing import mark_of, strangers, write_output

MODES = ["fresh", "force", "force without exchange"]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(params=MODES)
def scene(request, tmp_path, monkeypatch):
    """An output to write, and the number of calls that may fail on the way."""
    if request.param == "force without exchange":
        monkeypatch.setattr(exchange, "exchange", lambda left, right: False)
    old = None if request.param == "fresh" else "a"
    final = tmp_path / "counted" / "out"
    if old:
        write_output(final, old)
    with fault_at(0, crash) as points:
        write_output(final, "b", force=bool(old))
    assert points.seen > 30
    return request.param, old, points.seen


def before(folder, old):
    """Make the same start again in another place."""
    final = folder / "out"
    folder.mkdir()
    if old:
        write_output(final, old)
    return final


def next_run_succeeds(final):
    write_output(final, "c", force=True)
    assert mark_of(final) == "c"
    assert strangers(final) == set()


def test_a_disk_that_is_full_at_any_call_leaves_old_or_new(scene, tmp_path):
    _, old, count = scene
    told = []
    for at in range(1, count + 1):
        final = before(tmp_path / str(at), old)
        with fault_at(at, disk_full):
            try:
                write_output(final, "b", force=bool(old))
            except SurgeryError as error:
                told.append(str(error))
        assert mark_of(final) in {old, "b"}, at
        next_run_succeeds(final)
    assert len(told) > count // 2
    assert all("disk full" in text or "No space left" in text for text in told)


def test_an_interrupt_at_any_call_leaves_old_or_new(scene, tmp_path):
    mode, old, count = scene
    allowed = {old, "b"} | ({None} if mode == "force without exchange" else set())
    for at in range(1, count + 1):
        final = before(tmp_path / str(at), old)
        with suppress(KeyboardInterrupt), fault_at(at, interrupt):
            write_output(final, "b", force=bool(old))
        assert mark_of(final) in allowed, at
        next_run_succeeds(final)


@needs_fork
def test_a_process_that_dies_at_any_call_leaves_old_or_new(scene, tmp_path):
    mode, old, count = scene
    allowed = {old, "b"} | ({None} if mode == "force without exchange" else set())
    for at in range(1, count + 1):
        final = before(tmp_path / str(at), old)

        def run(final=final, at=at):
            with fault_at(at, crash):
                write_output(final, "b", force=bool(old))

        assert in_fork(run) == EXIT, at
        assert mark_of(final) in allowed, at
        next_run_succeeds(final)


@needs_fork
def test_the_old_output_is_never_lost_between_two_renames(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "exchange", lambda left, right: False)
    real = os.rename
    final = before(tmp_path / "place", "a")

    def run():
        renames = []

        def rename(source, target, **options):
            if renames:
                crash()
            renames.append(source)
            real(source, target, **options)

        monkeypatch.setattr(os, "rename", rename)
        write_output(final, "b", force=True)

    assert in_fork(run) == EXIT
    assert mark_of(final) is None
    with suppress(SurgeryError):
        write_output(final, "c")
    assert mark_of(final) == "a"
    assert strangers(final) == set()
