"""Patterns of tensor names with captures, and templates that use what they captured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from surgery.anatomy.glob import glob_regex

_CAPTURE = re.compile(r"<([A-Za-z_]\w*)(?::([^<>]+))?>")
_WILD = "*?[]{}<>"
_PRIVATE = 0xE000


@cache
def regex_of(pattern: str) -> re.Pattern[str]:
    """Give the regular expression of a pattern, to be matched against a whole name.

    A pattern is a glob, as under ``path:``, in which ``<n>`` captures one part of a name,
    ``<n:GLOB>`` what a glob matches and ``<n:**>`` any number of parts, one at least. A capture
    that stands twice must match the same twice.

    Raises:
        ValueError: the pattern is no glob, or a capture has no name.
    """
    captures = list(_CAPTURE.finditer(pattern))
    marks = iter(range(_PRIVATE, _PRIVATE + len(captures)))
    plain = _CAPTURE.sub(lambda _: chr(next(marks)), pattern)
    if "<" in plain or ">" in plain:
        raise ValueError(f"expected captures such as <n> or <n:GLOB>, got {pattern!r}")
    regex, known = glob_regex(plain), set[str]()
    for number, capture in enumerate(captures):
        name, inner = capture.groups()
        group = f"(?P={name})" if name in known else f"(?P<{name}>{_inner(inner)})"
        regex = regex.replace(chr(_PRIVATE + number), group)
        known.add(name)
    return re.compile(regex)


def _inner(glob: str | None) -> str:
    if glob is None:
        return "[^.]+"
    return ".+" if glob == "**" else glob_regex(glob)


def captures_of(pattern: str) -> frozenset[str]:
    """Give the names of a pattern's captures."""
    return frozenset(regex_of(pattern).groupindex)


def matches(pattern: str, names: Iterable[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Give the names that a pattern matches, and what was captured of each."""
    regex = regex_of(pattern)
    for name in names:
        if found := regex.fullmatch(name):
            yield name, found.groupdict()


def check_template(template: str, captures: frozenset[str]) -> None:
    """Check that a template is a name in which captures stand, and that these exist.

    Raises:
        ValueError: it is not.
    """
    if any(sign in _CAPTURE.sub("", template) for sign in _WILD):
        raise ValueError(f"expected a name with captures alone, got {template!r}")
    for name, glob in _CAPTURE.findall(template):
        if glob or name not in captures:
            known = ", ".join(f"<{one}>" for one in sorted(captures)) or "none"
            found = f"<{name}:{glob}>" if glob else f"<{name}>"
            raise ValueError(f"expected captures of the first name ({known}), got {found}")


def filled(template: str, captured: Mapping[str, str]) -> str:
    """Put what was captured into a template."""
    return _CAPTURE.sub(lambda found: captured[found[1]], template)


def natural(name: str) -> list[tuple[int, str]]:
    """Give a key that sorts names with their numbers as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
