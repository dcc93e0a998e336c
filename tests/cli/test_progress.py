"""Bars where somebody watches, and nothing where nobody does."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from surgery.cli.progress import bytes_bar, bytes_counter, steps_bar
from surgery.cli.session import Session
from surgery.cli.train import _Shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def errors(monkeypatch: pytest.MonkeyPatch, watched: bool) -> io.StringIO:
    stream = Terminal() if watched else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    return stream


def plain(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_bytes_have_size_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = errors(monkeypatch, True)
    with bytes_counter(Session(), "digest", 4_000_000) as advance:
        for _ in range(3):
            advance(1_000_000)
    shown = plain(stream)
    assert "digest" in shown
    assert "3.0/4.0 MB" in shown
    assert "MB/s" in shown or "?" in shown
    assert re.search(r"\d:\d\d:\d\d|-:--:--", shown)


def test_steps_have_a_count_and_what_they_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = errors(monkeypatch, True)
    session = Session()
    with steps_bar(session, "train") as bar:
        shown = _Shown(session, bar)
        for step in range(1, 6):
            shown({"step": step, "loss": 0.5, "norm": 1.0}, 10)
    text = plain(stream)
    assert "5/10" in text
    assert "loss 0.5000" in text
    assert "step 5/10" not in text


@pytest.mark.parametrize("session", [Session(), Session(quiet=True)], ids=["piped", "quiet"])
def test_no_bar_where_nobody_watches(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    stream = errors(monkeypatch, session.quiet)
    with bytes_counter(session, "digest", 10) as advance, bytes_bar(session, "write") as show:
        advance(5)
        show(5, 10)
    with steps_bar(session, "train") as bar:
        bar(1, 2, "loss")
    assert stream.getvalue() == ""


def test_a_piped_training_prints_its_first_and_last_step_and_few_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = errors(monkeypatch, False)
    session = Session()
    with steps_bar(session, "train") as bar:
        shown = _Shown(session, bar)
        for step in range(1, 101):
            shown({"step": step, "loss": 0.5, "norm": 1.0}, 100)
        shown({"step": 100, "evaluation": {"loss": 0.25}}, 100)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "100/100", "100:"]
    assert "left" in lines[0]
    assert "\x1b" not in stream.getvalue()


def test_a_quiet_training_prints_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = errors(monkeypatch, False)
    session = Session(quiet=True)
    with steps_bar(session, "train") as bar:
        _Shown(session, bar)({"step": 1, "loss": 0.5, "norm": 1.0}, 1)
    assert stream.getvalue() == ""
