"""An anatomy as a diagram that unfolds, with the sites of surgeries marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgery.anatomy.site import Anatomy
from surgery.report.branches import Branch, branches
from surgery.report.html.markup import filled, style
from surgery.report.lines import Piece, Shares, line_of, remarks_of, trains_text

if TYPE_CHECKING:
    from markupsafe import Markup

Mark = tuple[str, str]
"""Its kind (``site``, ``added``, ``changed`` or ``removed``), and what it says."""


@dataclass(frozen=True)
class Diagram:
    """What a diagram shows.

    Attributes:
        anatomy: sites, roles and notes.
        shares: what trains, by path.
        marks: what is done where, by path.
    """

    anatomy: Anatomy
    shares: Shares = field(default_factory=dict)
    marks: Mapping[str, tuple[Mark, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Token:
    """One tag of a diagram, in the order of writing.

    Attributes:
        kind: ``open``, ``leaf`` or ``close``.
        pieces: what is said.
        marks: what is done there.
        unfolded: True where what is below shows at once.
    """

    kind: str
    pieces: Sequence[Piece] = ()
    marks: Sequence[Mark] = ()
    unfolded: bool = False


def anatomy_html(anatomy: Anatomy) -> str:
    """Give an anatomy as HTML that unfolds, for notebooks; every text in it is escaped."""
    return str(filled("notebook.html", style=style(), body=diagram_html(Diagram(anatomy))))


def diagram_html(diagram: Diagram) -> Markup:
    """Give a diagram as HTML; every text in it is escaped."""
    return filled(
        "anatomy.html", tokens=list(tokens_of(diagram)), remarks=list(remarks_of(diagram.anatomy))
    )


def tokens_of(diagram: Diagram) -> Iterator[Token]:
    """Give the tags of a diagram: what is marked, and the model itself, is unfolded."""
    marks, shares = diagram.marks, diagram.shares
    top = branches(diagram.anatomy, lambda path: (shares.get(path), marks.get(path)))
    return _tokens(top, diagram, _above(marks) | {""}, "")


def _tokens(
    branch: Branch, diagram: Diagram, unfolded: frozenset[str], said: str
) -> Iterator[Token]:
    line = line_of(branch, diagram.shares, said)
    paths = (branch.path, *(own.path for own in branch.own))
    marks = list(dict.fromkeys(mark for path in paths for mark in diagram.marks.get(path, ())))
    if not branch.below:
        yield Token("leaf", line, marks)
        return
    yield Token("open", line, marks, branch.path in unfolded)
    for child in branch.below:
        yield from _tokens(child, diagram, unfolded, trains_text(branch, diagram.shares))
    yield Token("close")


def _above(paths: Iterable[str]) -> frozenset[str]:
    """Give everything above some paths."""
    found: set[str] = set()
    for path in paths:
        while path and (path := path.rpartition(".")[0]) not in found:
            found.add(path)
    return frozenset(found)
