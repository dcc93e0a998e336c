"""The surgery ``fuse``: one weight in place of several that are given the same input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Edit, Extend, Place, Remove
from surgery.operate.surgery import AtInit, Surgery
from surgery_plugins.surgeries.fuse.parts import KINDS, NAMES, Groups, grouped, role_of, siblings

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


class Fuse(Surgery):
    """Fuse q, k, v, and gate and up, into one weight each, their rows carried exactly.

    The module above goes on to find each part under its name: some rows of one product, computed
    once for a forward. Parts that are given another input, such as the query of a cross-attention,
    are left alone.
    """

    name: ClassVar[str] = "fuse"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({},)

    into: str | None = Field(
        default=None,
        description="Name of the fused module; made of the parts' roles if left out: qkv_proj, "
        "kv_proj, gate_up_proj.",
    )
    zeros: bool = Field(
        default=False,
        description="Give a part without a bias zeros where the others have one; refused if False.",
    )
    found: Groups = Field(
        default_factory=dict,
        repr=False,
        description="What is fused into which module. The plan fills it in for the journal.",
    )

    @property
    def at_init(self) -> AtInit:
        """One product rounds otherwise than several."""
        return "close"

    def refuse(self, site: Site) -> str | None:
        """Refuse what is no part, and what is no whole matrix of its own."""
        if role_of(site) is None:
            return f"it is no whole weight of {', '.join(NAMES)}"
        if site.direct:
            return "its weight is read without calling it"
        return None if site.type in KINDS else f"it is a {site.type}, and no {' or '.join(KINDS)}"

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the parts that have another beside them."""
        return [s for group in siblings(sites) if len(group) > 1 for s in group] or sites

    def settled(self, sites: Sequence[Site], patient: Patient) -> Surgery:
        """Find which parts are given the same input."""
        if self.found:
            return self
        from surgery_plugins.surgeries.fuse.observe import given

        inputs = given([site.path for site in sites], patient)
        return self.model_copy(update={"found": grouped(sites, inputs, self.into)})

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place each fused module, take its parts away, and let the one above find them."""
        for path, parts in self.found.items():
            yield from self._edits(path, parts, patient)

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Say what is fused, what is left alone, and which biases are new."""
        shapes: dict[tuple[str, ...], int] = {}
        for path, parts in self.found.items():
            key = (path.rpartition(".")[2], *parts)
            shapes[key] = shapes.get(key, 0) + 1
        for (into, *parts), count in shapes.items():
            yield f"{count} x {into}: rows of {', '.join(parts)}"
        left = [site.path for site in sites if site.path not in set(self._parts())]
        if left:
            yield f"given another input, left alone: {', '.join(left)}"

    def _parts(self) -> Iterator[str]:
        for path, names in self.found.items():
            yield from (_beside(path, name) for name in names)

    def _edits(self, path: str, parts: Sequence[str], patient: Patient) -> Iterator[Edit]:
        from surgery_plugins.surgeries.fuse import weights
        from surgery_plugins.surgeries.fuse.runtime import Fused, Fusion

        parent, _, into = path.rpartition(".")
        if hasattr(patient.model.get_submodule(parent), into):
            raise RefusedError(f"fuse: {path}", "a free name", "one that is taken", "set `into:`")
        paths = [_beside(path, name) for name in parts]
        modules = {one: weights.matrix_at(patient.model, one, self.name) for one in paths}
        first, rows = modules[paths[0]], tuple(map(weights.rows_of, modules.values()))
        self._check_alike(path, list(modules.values()))
        trains = weights.all_train(modules)
        values = weights.joined_values(paths, list(modules.values()))
        module = weights.with_rows(first, sum(rows), "bias" in values)
        axis = weights.out_axis_of(first)
        yield Extend(parent, f"fuse.{into}", Fused.here, Fusion(into, tuple(parts), rows, axis))
        yield Place(path, module, values, frozenset(values) if trains else frozenset())
        for one in paths:
            yield Remove(one)

    def _check_alike(self, path: str, modules: Sequence[object]) -> None:
        from surgery_plugins.surgeries.fuse.weights import differences

        for what, found in differences(modules).items():
            if len(set(found)) > 1 and not (what == "bias" and self.zeros):
                raise RefusedError(
                    f"fuse: {path}", f"parts with one {what}", ", ".join(map(str, found)),
                    "write `zeros: true` for new biases of zero" if what == "bias" else "",
                )  # fmt: skip


def _beside(path: str, name: str) -> str:
    parent = path.rpartition(".")[0]
    return f"{parent}.{name}" if parent else name
