"""Show an anatomy: what is where, what it does, how large it is, and how that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from surgery.anatomy.site import Anatomy, Layer, RowRange, Site
from surgery.report.branches import Branch, branches
from surgery.report.text import clean

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

_STYLES = {"name": "bold", "role": "green", "evidence": "dim", "count": "cyan", "more": "dim"}
_MAX_RANGES = 3
Piece = tuple[str, str]
"""A kind of text, such as ``role``, and the text."""


def anatomy_tree(anatomy: Anatomy, depth: int | None = None) -> Tree:
    """Give an anatomy as a tree that rich prints.

    Args:
        anatomy: what to show.
        depth: how many levels to show below the model; all of them if None.
    """
    from rich.tree import Tree

    top = branches(anatomy)
    tree = Tree(_text(_line(top)))
    _grow(tree, top, depth)
    for line in _remarks(anatomy):
        tree.add(_text([("more", line)]))
    return tree


def anatomy_html(anatomy: Anatomy) -> str:
    """Give an anatomy as HTML that unfolds; every text in it is escaped."""
    remarks = "".join(f"<div>{_html_text(line)}</div>" for line in _remarks(anatomy))
    return f"<div style='font-family:monospace'>{_html(branches(anatomy), True)}{remarks}</div>"


def anatomy_json(anatomy: Anatomy) -> dict[str, Any]:
    """Give an anatomy as JSON values: every site, nothing folded."""
    return {
        "traced": anatomy.traced,
        "notes": list(anatomy.notes),
        "roles": anatomy.role_counts(),
        "parameters": branches(anatomy).parameters,
        "trainable": list(anatomy.trainable) if anatomy.trainable else None,
        "sites": [_site_json(site) for site in anatomy],
    }


def _site_json(site: Site) -> dict[str, Any]:
    return {
        "path": site.path,
        "paths": list(site.paths),
        "parameter": site.parameter,
        "types": list(site.types),
        "roles": sorted(site.roles),
        "rows": {role: [list(part) for part in rows] for role, rows in sorted(site.rows.items())},
        "layer": _layer_json(site.layer),
        "tower": site.tower,
        "shape": list(site.shape),
        "out_axis": site.out_axis,
        "in_axis": site.in_axis,
        "evidence": site.evidence,
        "direct": site.direct,
        "tied": site.tied,
    }


def _layer_json(layer: Layer | None) -> dict[str, Any] | None:
    if layer is None:
        return None
    return {"number": layer.number, "container": layer.container, "count": layer.count}


def _grow(tree: Tree, branch: Branch, depth: int | None) -> None:
    below = branch.below
    if depth == 0 and below:
        tree.add(_text([("more", f"... {len(below)} more below")]))
        return
    for child in below:
        _grow(tree.add(_text(_line(child))), child, None if depth is None else depth - 1)


def _html(branch: Branch, opened: bool = False) -> str:
    line = " ".join(
        f"<b>{_html_text(text)}</b>" if kind == "name" else f"<span>{_html_text(text)}</span>"
        for kind, text in _line(branch)
    )
    below = "".join(_html(child) for child in branch.below)
    if not below:
        return f"<div style='margin-left:1.2em'>{line}</div>"
    state = " open" if opened else ""
    return f"<details{state} style='margin-left:1.2em'><summary>{line}</summary>{below}</details>"


def _html_text(text: str) -> str:
    return escape(clean(text, line=True), quote=True)


def _line(branch: Branch) -> list[Piece]:
    """Give what is said of one branch, in order."""
    site = branch.sites[0] if branch.sites else None
    copies = f" x{branch.copies}" if branch.copies > 1 else ""
    pieces = [("name", (branch.name or "model") + copies)]
    if site:
        pieces += [("type", site.type), ("shape", _shape(site.shape))] if site.type else []
        pieces += [("shape", f"+ {c.name} {_shape(c.sites[0].shape)}") for c in branch.own]
    pieces.append(("count", _count(branch)))
    for one in branch.sites:
        pieces += _roles(one)
    if site:
        pieces += _facts(site)
    return [(kind, text) for kind, text in pieces if text]


def _roles(site: Site) -> Iterator[Piece]:
    for role in sorted(site.roles):
        rows = site.rows.get(role)
        yield "role", f"{role} rows {_rows(rows)}" if rows else role


def _facts(site: Site) -> Iterator[Piece]:
    if site.roles:
        yield "evidence", f"({site.evidence})"
    if site.direct:
        yield "more", "read directly"
    if site.tied:
        yield "more", f"tied to {site.tied}"
    if len(site.paths) > 1:
        yield "more", "also " + ", ".join(site.paths[1:])


def _rows(rows: Sequence[RowRange]) -> str:
    shown = ",".join(f"{start}-{stop - 1}" for start, stop in rows[:_MAX_RANGES])
    more = len(rows) - _MAX_RANGES
    return f"{shown} and {more} ranges more" if more > 0 else shown


def _count(branch: Branch) -> str:
    each = branch.parameters
    if not each:
        return ""
    return f"{each:,} parameters" + (" each" if branch.copies > 1 else "")


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else ""


def _remarks(anatomy: Anatomy) -> Iterator[str]:
    counts = ", ".join(f"{role} {count}" for role, count in anatomy.role_counts().items())
    yield f"roles: {counts or 'none'}"
    if anatomy.trainable:
        trained, count = anatomy.trainable
        share = trained / count if count else 0.0
        yield f"trainable: {trained:,} of the model's {count:,} parameters ({share:.2%})"
    for note in anatomy.notes:
        yield f"note: {note}"


def _text(pieces: Sequence[Piece]) -> Text:
    from rich.text import Text

    text = Text()
    for number, (kind, what) in enumerate(pieces):
        text.append((" " if number else "") + clean(what, line=True), _STYLES.get(kind, ""))
    return text
