"""The surgery ``cast``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Edit, Keep, Rewrite, SetConfig
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.cast.choose import Found, Why, chosen

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient


class Cast(Surgery):
    """Give the floating tensors at and below the sites another dtype.

    Complex numbers, computed tables and tables of positions stay, unless that loses nothing;
    where all else is cast, the configuration's dtype follows.
    """

    name: ClassVar[str] = "cast"
    narrows: ClassVar[frozenset[str]] = frozenset({"*"})
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({"with": {"dtype": "float16"}},)

    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        description="The new dtype."
    )
    tables: list[str] = Field(
        default_factory=list,
        description="Globs of tables that are cast too, such as '**.position_embeddings.weight'.",
    )
    keep: list[str] = Field(
        default_factory=list, description="Globs of tensors that stay, such as '**.norm.weight'."
    )

    convert: bool = Field(
        default=False,
        description="Let the sites convert features that go in to the dtype, and back when they "
        "come out, so that a part runs in a model of another dtype.",
    )

    def refuse(self, site: Site) -> str | None:
        """Refuse parts of fused weights: a tensor has one dtype."""
        return f"{site.part} is only some rows of it" if site.part is not None else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the topmost sites."""
        from surgery_plugins.surgeries.fresh.settings import topmost

        return topmost(sites)

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Cast tensors; modules with wider tables learn to run, and the configuration follows."""
        from surgery_plugins.surgeries.cast.edges import converted
        from surgery_plugins.surgeries.cast.hold import hold
        from surgery_plugins.surgeries.fresh.settings import below

        cast, kept = self._chosen(sites, patient)
        if not cast:
            raise RefusedError(
                "cast", f"a tensor that is cast to {self.dtype}",
                f"none: {len(kept)} stay as they are, the others have this dtype",
            )  # fmt: skip
        for one in cast:
            yield Rewrite(one.name, tuple(one.tensor.shape), self.dtype, Keep(one.name))
        wide = [one for one, why in kept.values() if why != "other" and self._rounds(one)]
        modules = dict(patient.model.named_modules())
        yield from hold(wide, self.dtype, modules, below(sites, patient.model).keys())
        if self.convert:
            paths = [site.path for site in sites if not site.is_parameter]
            yield from converted(paths, self.dtype, modules)
        yield from self._config(cast, kept, patient)

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterator[str]:
        """List what stays, and why."""
        _, kept = self._chosen(sites, patient)
        for why, text in _REASONS.items():
            names = [name for name, (_, reason) in kept.items() if reason == why]
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                yield f"{', '.join(names[:3])}{more} stay{'s' if len(names) == 1 else ''}: {text}"

    def _chosen(
        self, sites: Sequence[Site], patient: Patient
    ) -> tuple[list[Found], Mapping[str, tuple[Found, Why]]]:
        from surgery.operate.dtypes import dtype_of

        found = _found(sites, patient.model)
        return chosen(found, dtype_of(self.dtype), self.tables, self.keep)

    def _rounds(self, one: Found) -> bool:
        """Tell whether real numbers would lose precision in the new dtype."""
        from torch import promote_types

        from surgery.operate.dtypes import dtype_of

        now, to = one.tensor.dtype, dtype_of(self.dtype)
        return now.is_floating_point and promote_types(now, to) != to

    def _config(
        self, cast: Sequence[Found], kept: Mapping[str, tuple[Found, Why]], patient: Patient
    ) -> Iterator[Edit]:
        """Let every part of the configuration that states a dtype state the new one."""
        from surgery.operate.behaviour import base_parameters
        from surgery.operate.dtypes import name_of
        from surgery_plugins.surgeries.fresh.settings import joined, parts, stated

        settled = {id(one.tensor) for one in cast}
        settled |= {id(one.tensor) for one, why in kept.values() if why != "asked"}
        left = (p for _, p in base_parameters(patient.model) if id(p) not in settled)
        others = any(p.is_floating_point() and name_of(p.dtype) != self.dtype for p in left)
        if patient.config is None or others:
            return
        for key, part in parts(patient.config):
            if stated(part, "dtype") is not None:
                yield SetConfig(joined(key, "dtype"), self.dtype)


_REASONS: Mapping[Why, str] = {
    "complex": "complex numbers have no other dtype",
    "table": "a computed table keeps its precision; name it under `tables:` to cast it",
    "position": "a table of positions keeps its precision; name it under `tables:` to cast it, "
    "which `save: full` needs, since no configuration states two dtypes",
    "asked": "`keep:` names it",
}


def _found(sites: Sequence[Site], model: nn.Module) -> list[Found]:
    """Give the tensors at and below the sites once, under their first names.

    Those that extensions added are left out: a step before theirs gives them another dtype.
    """
    from surgery.anatomy.extended import own_tensors
    from surgery_plugins.surgeries.fresh.settings import below

    modules, own = below(sites, model), {s.path for s in sites if s.is_parameter}
    found: dict[int, Found] = {}
    for path, module in model.named_modules():
        added = own_tensors(module)
        for buffer, table in ((False, module._parameters), (True, module._buffers)):
            for leaf, tensor in table.items():
                name = f"{path}.{leaf}" if path else leaf
                wanted = path in modules or name in own
                if tensor is not None and wanted and leaf not in added:
                    persistent = leaf not in module._non_persistent_buffers_set
                    found.setdefault(id(tensor), Found(name, tensor, buffer, persistent))
    return list(found.values())
