"""Markdown out of docstrings and plain text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$", re.M)
_ITEM = re.compile(r"^(\*{0,2}[\w.]+): (.*)", re.S)
_TITLES = {"Args": "Arguments"}


def escaped(text: str) -> str:
    """Keep text from being read as markup, except what stands between backticks."""
    plain = re.sub(r"``(.+?)``", r"`\1`", text)
    parts = re.split(r"(`[^`]+`)", plain)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<\[\]\\])", r"\\\1", p) for p in parts)


def cell(text: str) -> str:
    """Make text fit into one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table, or nothing where there are no rows."""
    lines = ["| " + " | ".join(cell(one) for one in row) + " |" for row in rows]
    rule = "|" + "---|" * len(heads)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *lines]) if lines else ""


def docstring(value: object) -> str:
    """Give what is said of a class or function, as Markdown.

    Sections of arguments, results and errors become lists.
    """
    text = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    first, *rest = _SECTION.split(text)
    sections = (_section(title, body) for title, body in zip(rest[::2], rest[1::2], strict=True))
    return "\n\n".join(part for part in (escaped(first.strip()), *sections) if part)


def summary(value: object) -> str:
    """Give the first line of what is said of a class or function."""
    return escaped(inspect.cleandoc(getattr(value, "__doc__", None) or "").partition("\n")[0])


def _section(title: str, body: str) -> str:
    inner = inspect.cleandoc(body.strip("\n"))
    items = re.split(r"\n(?=\S)", inner)
    lines = [_item(" ".join(item.split())) for item in items]
    named = any(line.startswith("- ") for line in lines)
    text = "\n".join(lines) if named else escaped(" ".join(inner.split()))
    return f"**{_TITLES.get(title, title)}**{chr(10) * 2 if named else ': '}{text}"


def _item(text: str) -> str:
    found = _ITEM.match(text)
    return f"- `{found[1]}`: {escaped(found[2])}" if found else escaped(text)
