"""Globs over dotted paths, as regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from surgery.errors import RecipeError

_TOKEN = re.compile(r"\*\*\.|\.\*\*|\*\*|\*|\?|\[[^\]]*\]|\{[^{}]*\}|[^*?\[{]")


@cache
def glob_regex(pattern: str) -> str:
    """Give the regular expression of a glob.

    ``*`` matches within one name, ``**`` any number of names, none included, ``?`` one character,
    ``[...]`` one of some characters, ``{a,b}`` one of some texts.

    Args:
        pattern: the glob, over a dotted path.

    Raises:
        RecipeError: a bracket or brace is not closed.
    """
    found = _TOKEN.findall(pattern)
    if "".join(found) != pattern:
        raise RecipeError(
            f"path {pattern!r}", "a glob", "a bracket or brace that is not closed", "close it"
        )
    return "".join(map(_translate, found))


def _translate(token: str) -> str:
    fixed = {"**.": r"(?:.*\.)?", ".**": r"(?:\..*)?", "**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    if token in fixed:
        return fixed[token]
    if token.startswith("["):
        negated = token[1:2] in ("!", "^")
        return f"[{'^' if negated else ''}{re.escape(token[1 + negated : -1]).replace(chr(92) + '-', '-')}]"
    if token.startswith("{"):
        return "(?:" + "|".join(map(re.escape, token[1:-1].split(","))) + ")"
    return re.escape(token)


def any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """Compile regular expressions to one that matches where any does, with a group for each."""
    return re.compile("|".join(f"({pattern})" for pattern in patterns), re.DOTALL)
