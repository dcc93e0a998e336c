from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import surgery.checkpoint.exchange as exchange_module
from surgery.checkpoint.publish import check_target, publish
from surgery.errors import OutputError
from tests.checkpoint.writing import fill, mark_of, strangers, write_output


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "out"


@contextmanager
def umask(value: int):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "exchange", lambda left, right: False)


def test_output_appears_only_at_the_end(final):
    with publish(final) as folder:
        assert folder.parent == final.parent
        assert folder.name.startswith(".")
        assert not any(folder.iterdir())
        fill(folder, "a")
        assert not final.exists()
    assert mark_of(final) == "a"
    assert strangers(final) == set()


def test_missing_parents_are_made(tmp_path):
    write_output(tmp_path / "one" / "two" / "out", "a")
    assert mark_of(tmp_path / "one" / "two" / "out") == "a"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write_output(tmp_path / "real", "a")
    (tmp_path / "link").symlink_to("real")
    write_output(tmp_path / "link", "b", force=True)
    assert (tmp_path / "link").is_symlink()
    assert mark_of(tmp_path / "real") == "b"


def fail_within(final, error):
    """Raise an error when everything but the end is done."""
    with publish(final, force=True) as folder:
        fill(folder, "b")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_no_trace(final, error):
    with pytest.raises(error):
        fail_within(final, error)
    assert not final.exists()
    assert strangers(final) == set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_any_exception_leaves_the_old_output(final, error):
    write_output(final, "a")
    with pytest.raises(error):
        fail_within(final, error)
    assert mark_of(final) == "a"
    assert strangers(final) == set()


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_existing_output_is_refused_before_any_work(final, kind):
    if kind == "folder":
        write_output(final, "a")
    elif kind == "empty folder":
        final.mkdir()
    elif kind == "file":
        final.write_text("x")
    else:
        final.symlink_to("nowhere-else")
        final = final.parent / "nowhere-else"
        final.write_text("x")
    with pytest.raises(OutputError, match="--force"), publish(final):
        pytest.fail("the block ran")


def test_output_that_appears_meanwhile_is_not_replaced(final):
    def meet():
        with publish(final) as folder:
            fill(folder, "a")
            final.mkdir()
            (final / "mine").write_text("x")

    with pytest.raises(OutputError, match="meantime"):
        meet()
    assert [path.name for path in final.iterdir()] == ["mine"]
    assert strangers(final) == set()


@pytest.mark.parametrize("fallback", [False, True])
def test_force_keeps_the_old_output_until_the_new_one_is_whole(final, fallback, monkeypatch):
    if fallback:
        without_exchange(monkeypatch)
    write_output(final, "a")
    with publish(final, force=True) as folder:
        fill(folder, "b")
        assert mark_of(final) == "a"
    assert mark_of(final) == "b"
    assert strangers(final) == set()


def test_force_replaces_a_file(final):
    final.write_text("x")
    write_output(final, "b", force=True)
    assert mark_of(final) == "b"
    assert strangers(final) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is a call of Linux")
def test_two_names_are_exchanged_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange_module.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, None])
def test_a_system_that_cannot_exchange_names_replaces_all_the_same(final, monkeypatch, number):
    def renameat2(*arguments):
        ctypes.set_errno(number)
        return -1

    library = SimpleNamespace(renameat2=renameat2) if number else None
    monkeypatch.setattr(exchange_module, "_libc", lambda: library)
    write_output(final, "a")
    write_output(final, "b", force=True)
    assert mark_of(final) == "b"
    assert strangers(final) == set()


def test_a_failed_replacement_puts_the_old_output_back(final, monkeypatch):
    without_exchange(monkeypatch)
    write_output(final, "a")
    real = os.rename

    def rename(source, target, **options):
        if Path(target) == final and ".tmp-" in str(source):
            raise OSError(5, "input/output error")
        real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match="disk that works"):
        write_output(final, "b", force=True)
    assert mark_of(final) == "a"
    assert strangers(final) == set()


def test_home_and_working_folder_are_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deep")
    with pytest.raises(OutputError, match="working folder"):
        write_output(tmp_path / "here", "a", force=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "here" / "deep"))
    with pytest.raises(OutputError, match="your home"):
        write_output(tmp_path / "here", "a", force=True)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(final, mask, mode):
    with umask(mask), publish(final) as folder:
        for name in ("narrow", "wide"):
            (folder / name).touch()
        (folder / "narrow").chmod(0o600)
        (folder / "wide").chmod(0o777)
    assert {stat.S_IMODE(path.stat().st_mode) for path in final.iterdir()} == {mode}
    assert stat.S_IMODE(final.stat().st_mode) & 0o666 == mode


def test_a_hard_link_keeps_the_mode_of_its_other_name(final, tmp_path):
    base = tmp_path / "base"
    base.touch()
    base.chmod(0o400)
    with publish(final) as folder:
        os.link(base, folder / "base")
    assert stat.S_IMODE(base.stat().st_mode) == 0o400


def test_every_file_and_folder_is_flushed(final, monkeypatch):
    flushed, real = set(), os.fsync

    def fsync(handle):
        flushed.add(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_output(final, "a")
    wanted = {final, final.parent, *final.rglob("*")}
    assert {path.stat().st_ino for path in wanted} <= flushed


def test_leftovers_of_killed_runs_are_swept(final):
    final.parent.joinpath(".out.tmp-1").mkdir()
    final.parent.joinpath(".out.tmp-1", "part").touch()
    kept = {".out.tmp-x", ".out2.tmp-1", "xout.tmp-1"}
    for name in kept:
        final.parent.joinpath(name).mkdir()
    write_output(final, "a")
    assert strangers(final) == kept


def test_a_swept_link_leaves_what_it_points_to(final, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".out.tmp-1").symlink_to("precious")
    write_output(final, "a")
    assert (tmp_path / "precious" / "file").exists()
    assert strangers(final) == {"precious"}


def test_what_a_killed_run_moved_aside_is_put_back(final):
    write_output(final, "a")
    final.rename(final.parent / ".out.old-1")
    with pytest.raises(OutputError, match="--force"):
        write_output(final, "b")
    assert mark_of(final) == "a"


def test_an_output_without_room_is_refused_before_any_work(final):
    wanted = r"disk full: needs .*TiB, has "
    with pytest.raises(OutputError, match=wanted), publish(final, needed_bytes=1 << 60):
        pytest.fail("the block ran")
    assert strangers(final) == set()


def test_room_is_demanded_with_five_percent_to_spare(final, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1049})())
    with pytest.raises(OutputError, match="disk full"), publish(final, needed_bytes=1000):
        pytest.fail("the block ran")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1050})())
    with publish(final, needed_bytes=1000):
        pass


def test_an_output_can_be_checked_before_its_folder_stands(tmp_path: Path) -> None:
    target = tmp_path / "not" / "yet" / "out"
    check_target(target, force=False, needed_bytes=1)
    with pytest.raises(OutputError, match="disk full"):
        check_target(target, force=False, needed_bytes=2**60)
    assert not target.parent.exists()
