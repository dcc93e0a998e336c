"""What the walker finds: sites, layers, and the anatomy that holds them. Plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.anatomy.select import Selection

RowRange = tuple[int, int]
"""A half-open range of output rows, ``(start, stop)``."""

ROLES = (
    "layer",
    "attention",
    "attention.q",
    "attention.k",
    "attention.v",
    "attention.qkv",
    "attention.proj",
    "mlp",
    "mlp.up",
    "mlp.gate",
    "mlp.down",
    "norm",
    "embedding",
    "head",
    "patch_embed",
    "resampler",
)
"""The built-in roles; a family may add its own."""

EVIDENCE = ("trace", "family", "names", "none")
"""What a site's roles rest on, strongest first; ``none`` where the site has no roles."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One repeated block: its number and the container that holds it.

    Attributes:
        number: position in the container, from 0.
        container: path of the list that holds the layers, such as ``model.layers``.
        count: how many layers the container has.
    """

    number: int
    container: str
    count: int


@dataclass(frozen=True, slots=True)
class Site:
    """One place in the model: a module, a parameter, or some rows of one.

    Attributes:
        path: the module's dotted path; of a raw parameter, its own dotted name.
        paths: every path under which the same module is found, ``path`` first.
        parameter: dotted name of the weight, or None for a module without one of its own.
        types: class names of the module, most derived first (``Parameter`` for a raw one).
        roles: what the site does.
        rows: for each role of a fused weight the output rows it owns, half-open and sorted.
        layer: the repeated block that the site lies in, or None.
        tower: ``text``, ``vision``, ``audio``, ``encoder``, ``decoder``..., or None.
        shape: shape of the weight, or ``()`` where there is none.
        out_axis: axis of ``shape`` that holds output rows (0 for Linear, 1 for Conv1D).
        in_axis: axis of ``shape`` that holds input features, or None (embeddings, norms).
        evidence: what the roles rest on: ``trace``, ``family``, ``names`` or ``none``.
        direct: True where another module reads the weight without calling this one, so that
            a changed ``forward`` would have no effect.
        tied: name of an earlier weight that is the same tensor, or None.
    """

    path: str
    paths: tuple[str, ...]
    parameter: str | None = None
    types: tuple[str, ...] = ()
    roles: frozenset[str] = frozenset()
    rows: Mapping[str, tuple[RowRange, ...]] = field(default_factory=dict)
    layer: Layer | None = None
    tower: str | None = None
    shape: tuple[int, ...] = ()
    out_axis: int = 0
    in_axis: int | None = None
    evidence: str = "none"
    direct: bool = False
    tied: str | None = None

    @property
    def type(self) -> str:
        """The module's own class name."""
        return self.types[0] if self.types else ""

    @property
    def is_parameter(self) -> bool:
        """Tell whether the site is a raw parameter and not a module."""
        return self.parameter is not None and self.parameter == self.path

    @property
    def part(self) -> str | None:
        """The role whose rows this site is, where it is only some rows of a fused weight."""
        return next(iter(self.rows)) if len(self.rows) == 1 and len(self.roles) == 1 else None

    def narrowed(self, role: str) -> Site:
        """Give the part of a fused weight that has one role; the site itself if it is whole."""
        if role not in self.rows:
            return self
        return replace(self, roles=frozenset((role,)), rows={role: self.rows[role]})


@dataclass(frozen=True)
class Anatomy:
    """Everything the walker read off one model, in module order.

    Attributes:
        sites: the sites, in the order of ``named_modules`` and then of parameters.
        notes: what could not be read and why, where evidence disagrees, what was fallen back to.
        traced: True where a forward could be observed (at least of one tower).
        trainable: how many of the model's numbers train, and how many it has; tied ones count
            once, those that extensions added too. None where they were not counted.
    """

    sites: tuple[Site, ...]
    notes: tuple[str, ...] = ()
    traced: bool = False
    trainable: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    @cached_property
    def by_path(self) -> Mapping[str, Site]:
        """Every path and every parameter name, with its site."""
        table = {site.parameter: site for site in self.sites if site.parameter}
        table.update((path, site) for site in self.sites for path in site.paths)
        return table

    def select(self, *, expect: int | None = None, **keys: Any) -> Selection:
        """Select sites, as ``at:`` of a recipe does.

        Args:
            expect: how many sites there must be.
            keys: ``role``, ``path``, ``match``, ``type``, ``layers``, ``tower`` and ``exclude``;
                each a text, a number or a list of them; ``exclude`` takes globs and selectors.

        Raises:
            SelectionError: nothing is selected, an entry finds nothing, or the number is wrong.
            RecipeError: a key is unknown, or an entry is no glob, pattern or layer.
        """
        from surgery.anatomy.select import select
        from surgery.anatomy.selector import selector_of

        return select(self, selector_of(keys, "select"), expect=expect, where="select")

    def __str__(self) -> str:
        """Show the sites as a tree, equal layers folded."""
        from surgery.report.console import rendered
        from surgery.report.tree import anatomy_tree

        return rendered(anatomy_tree(self))

    def _repr_html_(self) -> str:
        """Show the sites as a tree in a notebook."""
        from surgery.report.html.anatomy import anatomy_html

        return anatomy_html(self)

    def role_counts(self) -> dict[str, int]:
        """Count the sites of each role, most frequent first."""
        counts: dict[str, int] = {}
        for site in self.sites:
            for role in site.roles:
                counts[role] = counts.get(role, 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
