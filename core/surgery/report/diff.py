"""Show a difference: what was added, removed and changed, repeated layers folded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.compare import Change
from surgery.flow.companions import Said, Tokens
from surgery.flow.diff import Difference, StepChange, Tensor
from surgery.report.plan import NUMBER, fold
from surgery.report.text import clean

if TYPE_CHECKING:
    from rich.tree import Tree

Line = tuple[str, str]
"""A mark, one of ``+``, ``-``, ``~`` and ``!``, and what it stands before."""

_STYLES = {"+": "green", "-": "red", "~": "yellow", "!": "bold red"}
_MARKS = {"added": "+", "removed": "-", "changed": "~"}
_LONGEST = 60


def diff_tree(found: Difference, limit: int = 40) -> Tree:
    """Give a difference as a tree that rich prints.

    Args:
        found: what to show.
        limit: lines shown of each kind of thing.
    """
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(clean(f"{found.before} -> {found.after}", line=True), "bold"))
    for title, lines in _sections(found):
        branch = tree.add(Text(clean(title, line=True)))
        shown = list(lines)
        for mark, text in shown[:limit]:
            branch.add(Text.assemble((mark, _STYLES[mark]), " ", clean(text, line=True)))
        if len(shown) > limit:
            branch.add(Text(f"... and {len(shown) - limit} more lines; --json has all", "dim"))
    for note in found.notes:
        tree.add(Text(clean(f"note: {note}", line=True), "dim"))
    return tree


def _sections(found: Difference) -> Iterator[tuple[str, Iterable[Line]]]:
    if found.steps:
        yield "journal", map(_step, found.steps)
    for file in dict.fromkeys(said.file for said in found.said):
        yield file, (_said(said) for said in found.said if said.file == file)
    if found.tokens:
        yield "tokens", _tokens(found.tokens)
    yield _counts(found), _tensors(found)


def _counts(found: Difference) -> str:
    counts = {
        "equal": found.equal,
        "changed": len(found.changed),
        "added": len(found.added),
        "removed": len(found.removed),
    }
    shown = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    return f"tensors: {shown or 'none'}"


def _step(change: StepChange) -> Line:
    step, count = change.step, len(change.step.sites)
    given = {key: value for key, value in step.options.items() if value not in (None, {}, [])}
    options = " ".join(f"{key}={_short(value)}" for key, value in given.items())
    sites = f"{count} site" if count == 1 else f"{count} sites"
    return _MARKS[change.kind], f"{change.number}: {step.use} at {sites} ({options})"


def _said(said: Said) -> Line:
    if not said.key:
        size = said.after if said.before is None else said.before
        what = f"{said.before} -> {said.after}" if said.kind == "changed" else f"{size:,} bytes"
        return _MARKS[said.kind], f"the whole file, {what}"
    if said.kind == "changed":
        return "~", f"{said.key}: {_short(said.before)} -> {_short(said.after)}"
    value = said.after if said.kind == "added" else said.before
    return _MARKS[said.kind], f"{said.key}: {_short(value)}"


def _tokens(tokens: Tokens) -> Iterator[Line]:
    for mark, listed in (("+", tokens.added), ("-", tokens.removed)):
        yield from ((mark, f"{number} {_short(token)}") for token, number in listed)
    for number, old, new in tokens.renamed:
        yield "~", f"{number} {_short(old)} is now {_short(new)}"
    for token, before, after in tokens.moved:
        yield "~", f"{_short(token)} moved from {before} to {after}"
    for token, flag, was, now in tokens.flags:
        yield "~", f"{_short(token)} {flag}: {_short(was)} -> {_short(now)}"
    yield from (("~", f"{part} differs") for part in tokens.parts)


def _tensors(found: Difference) -> Iterator[Line]:
    changes: dict[tuple[Any, ...], list[Change]] = {}
    for one in found.changed:
        key = (NUMBER.sub("#", one.name), one.before, one.after, *map(any, (one.nans, one.infs)))
        changes.setdefault(key, []).append(one)
    for group in changes.values():
        yield "!" if any(_odd(group)) else "~", _change(group)
    for mark, tensors in (("+", found.added), ("-", found.removed)):
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for tensor in tensors:
            key = (NUMBER.sub("#", tensor.name), tensor.dtype, tensor.shape)
            alike.setdefault(key, []).append(tensor)
        for ones in alike.values():
            names = fold(tensor.name for tensor in ones)
            yield mark, f"{names} {_kind(ones[0].dtype, ones[0].shape)}"


def _change(group: Sequence[Change]) -> str:
    """Write changes that differ in the number of a layer alone as one line."""
    first = group[0]
    kind = _kind(*first.before)
    if first.before != first.after:
        kind += f" -> {_kind(*first.after)}"
    return f"{fold(one.name for one in group)} {kind}: {', '.join([*_amount(group), *_odd(group)])}"


def _amount(group: Sequence[Change]) -> Iterator[str]:
    first = group[0]
    if first.before[1] != first.after[1]:
        yield f"{first.compared:,} elements in common" if first.compared else "not comparable"
        if not first.compared:
            return
    if not any(one.norm for one in group):
        yield "values equal" if not any(one.differing for one in group) else "values differ"
        return
    relative = [one.relative for one in group if one.relative is not None]
    yield f"norm {_range([one.norm for one in group])}"
    yield f"relative {_range(relative)}" if relative else "zero before"
    yield f"largest {_range([one.largest for one in group])}"
    ranks = sorted({one.rank for one in group if one.rank is not None})
    if ranks and all(one.rank is not None for one in group):
        yield f"rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")


def _odd(group: Sequence[Change]) -> list[str]:
    """Count what is not finite, before and after."""
    found = []
    for word, counts in (("NaN", [c.nans for c in group]), ("infinite", [c.infs for c in group])):
        old, new = sum(c[0] for c in counts), sum(c[1] for c in counts)
        if old or new:
            found.append(f"{old:,} -> {new:,} {word}")
    return found


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _kind(dtype: str, shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}] {dtype}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
