"""Change single values in the text of a YAML file: comments and all other bytes stay."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from surgery.errors import RecipeError
from surgery.recipe.dump import dump_yaml
from surgery.recipe.nodes import plain
from surgery.recipe.yaml import read_yaml

_HASH = re.compile(r"(?<![^ \t])#")
_Cut: TypeAlias = tuple[int, int, str]
"""Begin, end, and what comes instead, in characters."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A text after its values were changed.

    Attributes:
        text: the new text.
        lost: line in the old text, and text, of each comment that is gone.
    """

    text: str
    lost: tuple[tuple[int, str], ...] = ()


def rewrite(text: str, new: Mapping[str, Any]) -> Rewritten:
    """Give a strict YAML text other values.

    A value that changes is written anew together with its key, and what it held is gone, its
    comments included. All else stays byte for byte. A key that is new where exactly one is gone,
    or that has the value of one that is gone, takes its place.

    Args:
        text: the text, as ``read_yaml`` accepts it.
        new: the values that it is to have; the order of keys in it does not matter.

    Raises:
        RecipeError: the text is no strict YAML, or not one of keys and values.
    """
    text = text.removeprefix("\ufeff")
    root = read_yaml(text, "recipe").root
    if root is None or not isinstance(root.value, Mapping):
        raise RecipeError("recipe", "keys and values", "another text")
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    comments = _comments(text, tree)
    cuts = sorted(_Splice(text).mapping(tree, plain(root), dict(new)), key=lambda cut: cut[:2])
    made = _applied(text, cuts)
    if not _gives(made, new):
        return Rewritten(_dump(dict(new)), tuple(comments.values()))
    gone = [said for at, said in comments.items() if any(b <= at < e for b, e, _ in cuts)]
    return Rewritten(made, tuple(gone))


def _gives(text: str, wanted: Mapping[str, Any]) -> bool:
    """Tell whether a text reads as some values."""
    try:
        document = read_yaml(text, "recipe")
    except RecipeError:
        return False
    return not document.problems and document.root is not None and _same(
        plain(document.root), wanted
    )  # fmt: skip


def _applied(text: str, cuts: list[_Cut]) -> str:
    for begin, end, instead in reversed(cuts):
        text = text[:begin] + instead + text[end:]
    return text


@dataclass(frozen=True, slots=True)
class _Splice:
    """Find the cuts that turn the values of a text into others."""

    text: str

    def mapping(
        self, node: Any, old: dict[str, Any], new: dict[str, Any], flow: bool = False
    ) -> Iterator[_Cut]:
        """Cut in a mapping: entries that go, change, get another name, or come."""
        names, flow = _renamed(old, new), flow or node.flow_style
        missing = {k: v for k, v in new.items() if k not in old and k not in names.values()}
        gone = [k for k in old if k not in new and k not in names]
        if not new or (flow and (missing or gone)) or len(gone) == len(old):
            yield self._anew(node, new, flow)
            return
        for place, (key, value) in enumerate(node.value):
            name = names.get(key.value, key.value)
            if name in new:
                yield from self._entry(key, value, old[key.value], (name, new[name]), flow)
            else:
                yield self._without(node, place)
        if missing:
            left = [v for k, v in node.value if names.get(k.value, k.value) in new]
            yield self._added(missing, _end(left[-1]), node.start_mark.column)

    def _added(self, entries: dict[str, Any], end: int, column: int) -> _Cut:
        """Write entries behind the line in which the last one that stays ends."""
        margin, written = " " * column, self._block(entries, column)
        if self.text[:end].endswith("\n"):
            return end, end, margin + written + self._break
        while end < len(self.text) and self.text[end] not in "\r\n":
            end += 1
        return end, end, self._break + margin + written

    def _entry(
        self, key: Any, value: Any, old: Any, entry: tuple[str, Any], flow: bool
    ) -> Iterator[_Cut]:
        name, new = entry
        cuts = list(self.value(value, old, new, flow))
        if flow or not _covers(cuts, value):
            if key.value != name:
                yield key.start_mark.index, key.end_mark.index, _word(name)
            yield from cuts
            return
        column = key.start_mark.column
        yield key.start_mark.index, _end(value), self._block({name: new}, column)

    def value(self, node: Any, old: Any, new: Any, flow: bool = False) -> Iterator[_Cut]:
        """Cut in a value of any kind."""
        if _same(old, new):
            return
        if isinstance(old, dict) and isinstance(new, dict):
            yield from self.mapping(node, old, new, flow)
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) > 0:
            flow = flow or node.flow_style
            for inner, one, other in zip(node.value, old, new, strict=True):
                yield from self.value(inner, one, other, flow)
        else:
            yield self._anew(node, new, flow)

    def _anew(self, node: Any, new: Any, flow: bool) -> _Cut:
        block = not flow and isinstance(new, dict | list) and new
        written = self._block(new, node.start_mark.column) if block else _flow(new)
        return node.start_mark.index, _end(node), written

    def _without(self, node: Any, place: int) -> _Cut:
        """Cut an entry of a block mapping: its lines, or up to the next one beside a dash."""
        key, value = node.value[place]
        begin, end = key.start_mark.index, _end(value)
        line = begin - key.start_mark.column
        if self.text[line:begin].strip():
            after = (
                node.value[place + 1][0].start_mark.index if place + 1 < len(node.value) else end
            )
            return begin, after, ""
        while end < len(self.text) and self.text[end - 1] != "\n":
            end += 1
        return line, end, ""

    def _block(self, value: Any, column: int) -> str:
        """Write a value in lines, all but the first one indented."""
        margin = self._break + " " * column
        return margin.join(_dump(value).rstrip("\n").split("\n"))

    @property
    def _break(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"


def _covers(cuts: list[_Cut], node: Any) -> bool:
    return [cut[:2] for cut in cuts] == [(node.start_mark.index, _end(node))]


def _renamed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """Pair keys that go with keys that come: those of equal value, then the only two left."""
    come, names = [key for key in new if key not in old], dict[str, str]()
    gone = [key for key in old if key not in new]
    for key in gone:
        equal = [k for k in come if k not in names.values() and _same(old[key], new[k])]
        if equal:
            names[key] = equal[0]
    left = [key for key in gone if key not in names]
    free = [key for key in come if key not in names.values()]
    return {**names, left[0]: free[0]} if len(left) == len(free) == 1 else names


def _end(node: Any) -> int:
    """Give where the last character of a value ends; a block's own mark is behind comments."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _comments(text: str, tree: Any) -> dict[int, tuple[int, str]]:
    """Find the comments of a text: line and text of each, by the place of its mark."""
    spans = sorted(_scalars(tree))
    begins = [begin for begin, _ in spans]
    found: dict[int, tuple[int, str]] = {}
    start = 0
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        for mark in _HASH.finditer(line):
            at = start + mark.start()
            place = bisect_right(begins, at) - 1
            if place < 0 or at >= spans[place][1]:
                found[at] = (number, line[mark.start() :].rstrip())
                break
        start += len(line)
    return found


def _scalars(node: Any) -> Iterator[tuple[int, int]]:
    """Give begin and end of every key and value that is no collection."""
    todo = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, yaml.ScalarNode):
            yield one.start_mark.index, one.end_mark.index
        else:
            todo += [
                x for item in one.value for x in (item if isinstance(item, tuple) else (item,))
            ]


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same; 1, 1.0 and true are not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _dump(value: Any) -> str:
    return dump_yaml(value, escaped=False)


def _flow(value: Any) -> str:
    """Write a value on one line, as it may stand in braces too."""
    return json.dumps(value, ensure_ascii=False)


def _word(name: str) -> str:
    """Write a key of a block."""
    return _dump({name: 0}).removesuffix(": 0\n")
