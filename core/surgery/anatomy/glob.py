"""Globs over dotted paths, as regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from surgery.errors import RecipeError

MAX_GLOB = 1000
"""Most characters of a glob."""

MAX_DEPTH = 20
"""Most braces inside each other."""

_REPEATED = re.compile(r"(?<![^.])\*\*(?:\.\*\*)+(?![^.])")
_TOKEN = re.compile(r"^\*\*\.|\.\*\*(?=\.|$)|\*+|\?|\[[^\[\]]+\]|[{},]|.", re.DOTALL)
_WILD = {"**.": r"(?:.*\.)?", ".**": r"(?:\..*)?", "*": "[^.]*", "?": "[^.]"}


@cache
def glob_regex(pattern: str, where: str = "path") -> str:
    """Give the regular expression of a glob, to be matched against a whole dotted path.

    ``*`` matches within one name, ``**`` any number of names, none included, ``?`` one character
    but the dot, ``[ab]``, ``[a-c]`` and ``[!a]`` one of some characters but the dot, ``{a,b}`` one
    of some globs. Only ``**`` matches the empty path of the model itself.

    Args:
        pattern: the glob.
        where: how errors name the place.

    Raises:
        RecipeError: a bracket or brace is not closed, a range of characters runs backwards, or
            ``**`` is not a whole name.
    """
    try:
        regex = _translated(pattern)
        re.compile(regex)
    except (ValueError, re.error) as error:
        wanted = "a glob such as **.layers.*.{q,v}_proj"
        raise RecipeError(where, wanted, f"{pattern[:80]!r} ({error})") from None
    return regex


def any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """Compile the regular expressions of some globs to one that matches where any does."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def _translated(pattern: str) -> str:
    """Translate a glob; a ValueError says what is wrong with it."""
    if len(pattern) > MAX_GLOB:
        raise ValueError(f"{len(pattern)} characters, more than {MAX_GLOB}")
    short = _REPEATED.sub("**", pattern)
    if short == "**":
        return ".*"
    depth, parts = 0, ["(?=.)"]
    for token in _TOKEN.findall(short):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if not 0 <= depth <= MAX_DEPTH:
            raise ValueError("a '}' without '{'" if depth < 0 else "too many braces in braces")
        parts.append(_translate(token, depth))
    if depth:
        raise ValueError("a '{' that is not closed")
    return "".join(parts)


def _translate(token: str, depth: int) -> str:
    """Translate one token of a glob, ``depth`` braces deep."""
    if token in _WILD:
        return _WILD[token]
    if token.startswith("**"):
        raise ValueError("'**' stands alone between dots, at most once '*' elsewhere")
    if token.startswith("[") and len(token) > 1:
        return _characters(token[1:-1])
    if token in ("[", "]"):
        raise ValueError(f"a {token!r} without its other half, or nothing between them")
    braces = {"{": "(?:", "}": ")", ",": "|" if depth else ","}
    return braces.get(token) or re.escape(token)


def _characters(listed: str) -> str:
    """Give the class of some characters, of which the dot is never one."""
    negated = listed[0] in "!^" and len(listed) > 1
    escaped = re.sub(r"[\\^&|~\[\]]", r"\\\g<0>", listed[negated:])
    return f"(?!\\.)[{'^' if negated else ''}{escaped}]"
