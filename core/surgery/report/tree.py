"""Show an anatomy: what is where, what it does, how large it is, and how that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from surgery.anatomy.site import Anatomy, Layer, Site
from surgery.report.branches import Branch, branches
from surgery.report.lines import Piece, Shares, line_of, remarks_of, trains_text
from surgery.report.palette import COLOURS
from surgery.report.text import clean

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

_STYLES = {
    "name": "bold", "type": "", "shape": "", "count": "cyan", "evidence": "dim", "more": "dim",
    "trains": "italic", **{f"role {name}": colour for name, colour in COLOURS.items()},
}  # fmt: skip


def anatomy_tree(anatomy: Anatomy, depth: int | None = None, shares: Shares | None = None) -> Tree:
    """Give an anatomy as a tree that rich prints.

    Args:
        anatomy: what to show.
        depth: how many levels to show below the model; all of them if None.
        shares: what trains, by path; said where it differs from what is above.
    """
    from rich.tree import Tree

    known = shares or {}
    top = branches(anatomy, known.get)
    tree = Tree(_text(line_of(top, known, "")))
    _grow(tree, top, depth, known)
    for line in remarks_of(anatomy):
        tree.add(_text([("more", line)]))
    return tree


def anatomy_json(anatomy: Anatomy, shares: Shares | None = None) -> dict[str, Any]:
    """Give an anatomy as JSON values: every site, nothing folded.

    Args:
        anatomy: what to give.
        shares: what trains, by path.
    """
    return {
        "traced": anatomy.traced,
        "notes": list(anatomy.notes),
        "roles": anatomy.role_counts(),
        "parameters": branches(anatomy).parameters,
        "trainable": list(anatomy.trainable) if anatomy.trainable else None,
        "sites": [_site_json(site, shares or {}) for site in anatomy],
    }


def _site_json(site: Site, shares: Shares) -> dict[str, Any]:
    known = {"numbers": asdict(shares[site.path])} if site.path in shares else {}
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
        **known,
    }


def _layer_json(layer: Layer | None) -> dict[str, Any] | None:
    if layer is None:
        return None
    return {"number": layer.number, "container": layer.container, "count": layer.count}


def _grow(tree: Tree, branch: Branch, depth: int | None, shares: Shares) -> None:
    below, said = branch.below, trains_text(branch, shares)
    if depth == 0 and below:
        tree.add(_text([("more", f"... {len(below)} more below")]))
        return
    for child in below:
        twig = tree.add(_text(line_of(child, shares, said)))
        _grow(twig, child, None if depth is None else depth - 1, shares)


def _text(pieces: Sequence[Piece]) -> Text:
    from rich.text import Text

    text = Text()
    for number, (kind, what) in enumerate(pieces):
        text.append(" " if number else "")
        text.append(clean(what, line=True), _STYLES[kind])
    return text
