"""What is said of one branch of an anatomy: pieces of text, each with what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from surgery.anatomy.site import Anatomy, RowRange, Site
from surgery.report.branches import Branch
from surgery.report.palette import colour_of
from surgery.report.shares import Share, share_text

MAX_RANGES = 3
"""Ranges of rows that are written out."""

Piece = tuple[str, str]
"""What a text is, such as ``name`` or ``role attention``, and the text."""

Shares = Mapping[str, Share]
"""What trains, by path."""


def line_of(branch: Branch, shares: Shares, above: str) -> list[Piece]:
    """Give what is said of one branch, in order.

    Args:
        branch: the branch.
        shares: what trains, by path; nothing where it is not known.
        above: what was said of that further up, and is not said again.
    """
    site = branch.sites[0] if branch.sites else None
    copies = f" x{branch.copies}" if branch.copies > 1 else ""
    pieces = [("name", (branch.name or "model") + copies)]
    if site:
        pieces += [("type", site.type), ("shape", shape_text(site.shape))] if site.type else []
        pieces += [("shape", f"+ {c.name} {shape_text(c.sites[0].shape)}") for c in branch.own]
    pieces.append(("count", _count(branch, shares)))
    for one in branch.sites:
        pieces += _roles(one)
    if site:
        pieces += _facts(site)
    trains = trains_text(branch, shares)
    pieces.append(("trains", trains if trains != above else ""))
    return [(kind, text) for kind, text in pieces if text]


def trains_text(branch: Branch, shares: Shares) -> str:
    """Say what trains of a branch; nothing where it has no numbers, or it is not known."""
    return share_text(shares[branch.path]) if branch.path in shares else ""


def remarks_of(anatomy: Anatomy) -> Iterator[str]:
    """Give what is said of an anatomy as a whole: its roles, what trains, its notes."""
    counts = ", ".join(f"{role} {count}" for role, count in anatomy.role_counts().items())
    yield f"roles: {counts or 'none'}"
    if anatomy.trainable:
        trained, count = anatomy.trainable
        share = trained / count if count else 0.0
        yield f"trainable: {trained:,} of the model's {count:,} parameters ({share:.2%})"
    for note in anatomy.notes:
        yield f"note: {note}"


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape, such as ``[8, 16]``; nothing where there is none."""
    return f"[{', '.join(map(str, shape))}]" if shape else ""


def _roles(site: Site) -> Iterator[Piece]:
    for role in sorted(site.roles):
        rows = site.rows.get(role)
        yield f"role {colour_of(role)}", f"{role} rows {_rows(rows)}" if rows else role


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
    shown = ",".join(f"{start}-{stop - 1}" for start, stop in rows[:MAX_RANGES])
    more = len(rows) - MAX_RANGES
    return f"{shown} and {more} ranges more" if more > 0 else shown


def _count(branch: Branch, shares: Shares) -> str:
    """Say how many numbers a branch has, and how many of extensions stand there besides."""
    each = branch.parameters
    if not each:
        return ""
    more = shares.get(branch.path, Share()).added
    added = f" + {more:,} added" if more else ""
    return f"{each:,} parameters{added}" + (" each" if branch.copies > 1 else "")
