"""The surgery ``unfuse``: several weights in place of one that holds the rows of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Detach, Edit, Place, Remove
from surgery.operate.surgery import AtInit, Surgery
from surgery_plugins.surgeries.fuse.parts import KINDS, fused_rows

if TYPE_CHECKING:
    from surgery.operate.patient import Patient
    from surgery_plugins.surgeries.fuse.runtime import Fusion

Ranges = Sequence[tuple[int, int]]


class Unfuse(Surgery):
    """Take fused q, k, v, or gate and up, apart, their rows carried exactly.

    Where ``fuse`` has put them together, the parts stand again where they stood. Elsewhere the
    parts stand below the module that held them, such as ``qkv_proj.q_proj``, and it puts their
    outputs together in the order that the model expects, however its rows are laid out.
    """

    name: ClassVar[str] = "unfuse"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {},
        {"overlap": True, "after": [{"use": "fuse", "with": {"zeros": True}}]},
    )

    sizes: dict[str, int] = Field(
        default_factory=dict,
        description="Names and numbers of rows of the parts, one after the other, such as "
        "{q_proj: 64, k_proj: 16, v_proj: 16}; read off the forward if left out.",
    )

    @property
    def at_init(self) -> AtInit:
        """Several products round otherwise than one."""
        return "close"

    def refuse(self, site: Site) -> str | None:
        """Refuse what holds no rows of several parts, and what is no matrix of its own."""
        if site.is_parameter or site.type not in KINDS:
            return f"it is a {site.type or 'raw parameter'}, and no {' or '.join(KINDS)}"
        if site.part is not None:
            return "this role is only some of its rows; select the whole weight by its path"
        if site.direct:
            return "its weight is read without calling it"
        few = len(fused_rows(site)) < 2 and not self.sizes
        return "no rows of several parts were seen in it; say `sizes:` if it has" if few else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the weights that hold rows of several parts."""
        whole = [site for site in sites if len(fused_rows(site)) > 1 and site.part is None]
        return sites if self.sizes else whole or sites

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place the parts in the place of each fused module."""
        for site in sites:
            yield from self._edits(site, patient)

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Say how many rows each part gets."""
        told = {", ".join(f"{n} {_count(r)}" for n, r in self._rows(s, patient).items()): s
                for s in sites}  # fmt: skip
        for rows, site in told.items():
            yield f"{site.path.rpartition('.')[2]}: {rows} rows"

    def _edits(self, site: Site, patient: Patient) -> Iterator[Edit]:
        from surgery_plugins.surgeries.fuse import weights
        from surgery_plugins.surgeries.fuse.joined import Joined, pieces_of

        old = weights.matrix_at(patient.model, site.path, self.name)
        rows = self._rows(site, patient)
        _check_rows(site.path, rows, weights.rows_of(old))
        parts = {n: weights.with_rows(old, _count(r), old.bias is not None)
                 for n, r in rows.items()}  # fmt: skip
        values = {n: weights.taken_values(site.path, old, r) for n, r in rows.items()}
        parent = site.path.rpartition(".")[0]
        trains = {name for name, parameter in old.named_parameters() if parameter.requires_grad}
        if _fusion_at(site.path, patient) is None:
            every = {f"{n}.{leaf}": v for n, held in values.items() for leaf, v in held.items()}
            trainable = frozenset(name for name in every if name.rpartition(".")[2] in trains)
            yield Place(site.path, Joined(parts, pieces_of(rows)), every, trainable)
            return
        for name, part in parts.items():
            yield Place(f"{parent}.{name}", part, values[name], frozenset(trains))
        yield Remove(site.path)
        yield Detach(parent, f"fuse.{site.path.rpartition('.')[2]}")

    def _rows(self, site: Site, patient: Patient) -> Mapping[str, Ranges]:
        fusion = _fusion_at(site.path, patient)
        sizes = self.sizes
        if fusion is not None:
            sizes = sizes or dict(zip(fusion.parts, fusion.rows, strict=True))
        if not sizes:
            return fused_rows(site)
        rows, start = {}, 0
        for name, size in sizes.items():
            rows[name] = ((start, start + size),)
            start += size
        return rows


def _count(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _fusion_at(path: str, patient: Patient) -> Fusion | None:
    """Give what ``fuse`` did at a path, or None."""
    from surgery.anatomy.extended import EXTENSIONS

    parent, _, leaf = path.rpartition(".")
    table = patient.model.get_submodule(parent).__dict__.get(EXTENSIONS, {})
    found = table.get(f"fuse.{leaf}")
    return None if found is None else found.settings


def _check_rows(path: str, rows: Mapping[str, Ranges], count: int) -> None:
    """Check that every row belongs to one part.

    Raises:
        RefusedError: a row belongs to none or to several.
    """
    every = sorted(one for ranges in rows.values() for one in ranges)
    gapless = [start for start, _ in every] + [count] == [0] + [stop for _, stop in every]
    if not gapless or min(map(_count, rows.values())) < 1:
        told = ", ".join(f"{name} {list(ranges)[:3]}" for name, ranges in rows.items())
        raise RefusedError(
            f"unfuse: {path}", f"each of {count} rows in one part", told,
            "say under `sizes:` how many rows each part has",
        )  # fmt: skip
