"""Read YAML strictly and within bounds, straight from the parser's events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from surgery.errors import RecipeError
from surgery.recipe.nodes import MAX_DEPTH, Mark, Node, mistake
from surgery.recipe.scalars import LONGEST_NUMBER, resolve

MAX_BYTES = 1 << 20
MAX_EVENTS = 50_000
MAX_SCALAR = 1 << 16

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ANCHORED = (yaml.ScalarEvent, yaml.CollectionStartEvent)
_HINT = "is the file cut short, or indented unevenly?"


@dataclass(frozen=True, slots=True)
class Document:
    """What was read.

    Attributes:
        root: the tree; None for an empty file.
        problems: keys that stand twice, with their places.
    """

    root: Node | None
    problems: tuple[tuple[Mark, RecipeError], ...] = ()


def read_file(path: Path, source: str) -> Document:
    """Read a YAML file.

    Args:
        path: the file.
        source: how errors name it.

    Raises:
        RecipeError: it cannot be read, is too large, no UTF-8, or no strict YAML.
    """
    try:
        with path.open("rb") as file:
            return read_yaml(file.read(MAX_BYTES + 1), source)
    except OSError as error:
        raise RecipeError(source, "a recipe file", error.strerror or str(error)) from None


def read_yaml(content: bytes | str, source: str) -> Document:
    """Read one YAML document.

    Args:
        content: the document, UTF-8 where it is bytes.
        source: how errors name it.

    Raises:
        RecipeError: it is too large, no UTF-8, or no strict YAML: one document without
            anchors, aliases and tags, at most 64 deep, 50 000 events, 64 KiB a scalar.
    """
    text = _decoded(content, source)
    try:
        return _Builder(source).build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source) from None
    except yaml.YAMLError as error:
        raise RecipeError(source, "YAML", str(error).splitlines()[0], _HINT) from None


def _decoded(content: bytes | str, source: str) -> str:
    try:
        data = content.encode() if isinstance(content, str) else content
        if len(data) > MAX_BYTES:
            raise RecipeError(source, f"at most {MAX_BYTES} bytes", "more")
        text = data.decode("utf-8-sig")
    except UnicodeError as error:
        raise RecipeError(
            source,
            "text in UTF-8",
            f"a byte that is none at offset {getattr(error, 'start', 0)}",
            "save it as UTF-8",
        ) from None
    if "\0" in text:
        raise RecipeError(source, "text in UTF-8", f"a binary file (NUL at {text.index(chr(0))})")
    return text


def _syntax_error(error: yaml.MarkedYAMLError, source: str) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    start = error.context_mark
    place = f" from line {start.line + 1}" if start else ""
    context = f" ({error.context}{place})" if error.context else ""
    where = Mark(source, mark.line + 1, mark.column + 1) if mark else Mark(source)
    return RecipeError(str(where), "YAML", f"{error.problem}{context}", _HINT)


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    mark: Mark
    mapping: bool
    key: Mark | None
    entries: dict[str, Node] = field(default_factory=dict)
    items: list[Node] = field(default_factory=list)
    name: str | None = None
    name_mark: Mark | None = None


class _Builder:
    """Build the tree without recursion, so that no input can exhaust the stack."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.open: list[_Open] = []
        self.root: Node | None = None
        self.documents = 0
        self.problems: list[tuple[Mark, RecipeError]] = []

    def build(self, events: Iterator[Any]) -> Document:
        for number, event in enumerate(events):
            if number >= MAX_EVENTS:
                raise self._error(event, f"at most {MAX_EVENTS} values and marks", "more")
            self._refuse(event)
            self._take(event)
        return Document(self.root, tuple(self.problems))

    def _refuse(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "a value", f"the alias *{event.anchor}", "write it out")
        if isinstance(event, _ANCHORED):
            if event.anchor is not None:
                raise self._error(event, "a value", f"the anchor &{event.anchor}", "leave it out")
            if event.tag is not None:
                raise self._error(event, "a value", f"the tag {event.tag}", "leave it out")
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._error(event, "one document", "a second", "write one file for each")

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _start(self, event: Any) -> None:
        mark = self._mark(event)
        if len(self.open) >= MAX_DEPTH:
            raise self._error(event, f"at most {MAX_DEPTH} levels", "more")
        if self._wants_key():
            raise self._error(event, "a key that is text", "a list or a mapping as key")
        key = self.open[-1].name_mark if self.open else None
        self.open.append(_Open(mark, isinstance(event, yaml.MappingStartEvent), key))

    def _end(self) -> None:
        done = self.open.pop()
        value = done.entries if done.mapping else tuple(done.items)
        self._add(Node(value, done.mark, done.key))

    def _scalar(self, event: Any) -> None:
        mark, text = self._mark(event), event.value
        if len(text) > MAX_SCALAR:
            raise self._error(event, f"at most {MAX_SCALAR} characters", f"{len(text)}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error(event, "characters of Unicode", "half of a surrogate pair")
        if self._wants_key():
            self._key(text, mark)
            return
        is_plain = not event.style
        value = self._resolved(event) if is_plain else text
        self._add(Node(value, mark, self.open[-1].name_mark if self.open else None, is_plain))

    def _resolved(self, event: Any) -> Any:
        try:
            return resolve(event.value)
        except ValueError as error:
            raise self._error(event, f"at most {LONGEST_NUMBER} digits", str(error)) from None

    def _key(self, name: str, mark: Mark) -> None:
        inside = self.open[-1]
        if name in inside.entries:
            first = inside.entries[name].key
            found = f"a second one (the first is in line {first.line if first else 0})"
            problem = mistake(mark, (), f"one key {name!r}", found, "remove one of them")
            self.problems.append((mark, problem))
        inside.name, inside.name_mark = name, mark

    def _wants_key(self) -> bool:
        return bool(self.open) and self.open[-1].mapping and self.open[-1].name is None

    def _add(self, node: Node) -> None:
        if not self.open:
            self.root = node
            return
        inside = self.open[-1]
        if inside.mapping:
            inside.entries[str(inside.name)] = node
            inside.name = inside.name_mark = None
        else:
            inside.items.append(node)

    def _mark(self, event: Any) -> Mark:
        return Mark(self.source, event.start_mark.line + 1, event.start_mark.column + 1)

    def _error(self, event: Any, wanted: str, found: str, instead: str = "") -> RecipeError:
        return mistake(self._mark(event), (), wanted, found, instead)
