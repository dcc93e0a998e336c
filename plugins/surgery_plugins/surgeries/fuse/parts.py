"""Which weights are fused with each other, and under which names. Plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from surgery.anatomy.site import Site
from surgery.errors import RefusedError

NAMES: Mapping[str, str] = {
    "attention.q": "q_proj",
    "attention.k": "k_proj",
    "attention.v": "v_proj",
    "mlp.gate": "gate_proj",
    "mlp.up": "up_proj",
}
"""Roles whose weights stand in one, in the order of their rows, and the name of a part."""

KINDS = ("Linear", "Conv1D")
"""Classes that multiply with one matrix and add a bias."""

Groups = dict[str, list[str]]
"""Fused weights by path, each with the names of its parts beside it, in the order of rows."""


def role_of(site: Site) -> str | None:
    """Give the one role for which a site's whole weight is a part of a fused one."""
    found = [role for role in NAMES if role in site.roles]
    return found[0] if len(found) == 1 and not site.rows and not site.is_parameter else None


def fused_rows(site: Site) -> dict[str, tuple[tuple[int, int], ...]]:
    """Give the rows of each part of a fused weight, by the part's name."""
    return {NAMES[role]: site.rows[role] for role in NAMES if role in site.rows}


def siblings(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """Give the parts that may be fused with each other: below one module, in order of rows."""
    order = list(NAMES)
    found: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        role = role_of(site)
        if role is not None:
            key = (site.path.rpartition(".")[0], role.partition(".")[0])
            found.setdefault(key, []).append(site)
    for group in found.values():
        yield sorted(group, key=lambda site: order.index(role_of(site) or ""))


def grouped(sites: Sequence[Site], inputs: Mapping[str, object], into: str | None) -> Groups:
    """Give the weights to be fused: siblings that are given one and the same input.

    Args:
        sites: the parts.
        inputs: what each part was given in one forward, by path.
        into: name of a fused weight; made of the roles if None.

    Raises:
        RefusedError: a part has none to be fused with.
    """
    groups: Groups = {}
    for family in siblings(sites):
        for alike in _alike(family, inputs):
            if len(alike) == 1:
                raise _alone(alike[0], family)
            parent = alike[0].path.rpartition(".")[0]
            name = into or _name(alike)
            path = f"{parent}.{name}" if parent else name
            groups[path] = [site.path.rpartition(".")[2] for site in alike]
    return groups


def _alike(family: Iterable[Site], inputs: Mapping[str, object]) -> list[list[Site]]:
    """Give the sites that are given the same; a query of another input than its keys is left."""
    found: dict[object, list[Site]] = {}
    for site in family:
        found.setdefault(inputs[site.path], []).append(site)
    several = [group for group in found.values() if len(group) > 1]
    return several or list(found.values())


def _name(sites: Sequence[Site]) -> str:
    letters = [(role_of(site) or "").partition(".") for site in sites]
    kind = letters[0][0]
    return "gate_up_proj" if kind == "mlp" else "".join(last for _, _, last in letters) + "_proj"


def _alone(site: Site, family: Sequence[Site]) -> RefusedError:
    others = ", ".join(one.path for one in family if one is not site)
    found = f"another one for {others}" if others else "none of the others beside it"
    return RefusedError(
        f"fuse: {site.path}", "parts that are given one input", found,
        "select parts that belong together, such as {role: [attention.q, attention.k]}",
    )  # fmt: skip
