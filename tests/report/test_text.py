from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.report.text import clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 text", "plain é 漢 text"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\x9b2Jb\x7f", "a\\x9b2Jb\\x7f"),
        ("a\r\nb\tc", "a\\x0d\nb\tc"),
        ("a\u202eb\u2066c\u2028d", "a\\u202eb\\u2066c\\u2028d"),
        ("\ud800", "\\ud800"),
        ("[/foo] [bold]", "[/foo] [bold]"),
    ],
)
def test_what_could_drive_a_terminal_is_shown_and_not_sent(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_one_line_stays_one_line() -> None:
    assert clean("a\nb\tc", line=True) == "a\\nb\\tc"


@given(st.text())
def test_nothing_is_left_but_line_breaks_and_tabs_that_is_a_control(text: str) -> None:
    kinds = {unicodedata.category(c) for c in clean(text) if c not in "\n\t"}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert "\n" not in clean(text, line=True)
