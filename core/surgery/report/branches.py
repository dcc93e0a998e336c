"""An anatomy as branches: sites under their names, equal numbered ones folded into one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from math import prod

from surgery.anatomy.numbers import ranges_text
from surgery.anatomy.site import Site


@dataclass
class Branch:
    """What lies under one name.

    Attributes:
        name: the last part of the path; numbers as ranges where branches were folded.
        path: the whole path; of folded branches, that of the first.
        copies: how many equal branches this one stands for.
        sites: the sites of exactly this path: one, several parts of a fused weight, or none.
        children: the branches below.
    """

    name: str
    path: str
    copies: int = 1
    sites: list[Site] = field(default_factory=list)
    children: list[Branch] = field(default_factory=list)

    @property
    def own(self) -> list[Branch]:
        """The raw parameters that do nothing else than the module, such as a bias."""
        roles = frozenset().union(*(site.roles for site in self.sites))
        return [c for c in self.children if c.copies == 1 and _is_plain(c, roles)]

    @property
    def below(self) -> list[Branch]:
        """The branches that have lines of their own."""
        own = {id(child) for child in self.own}
        return [child for child in self.children if id(child) not in own]

    @property
    def parameters(self) -> int:
        """How many numbers the weights here and below have, one copy; tied ones count once."""
        own = [site for site in self.sites[:1] if site.parameter and not site.tied]
        here = sum(prod(site.shape) for site in own)
        return here + sum(child.copies * child.parameters for child in self.children)


def branches(sites: Iterable[Site], fact: Callable[[str], Hashable] = lambda path: None) -> Branch:
    """Give the sites as one branch, equal numbered branches folded.

    Args:
        sites: the sites; what lies above them needs no sites of its own.
        fact: gives what else is shown of a path; branches with other facts are not equal.
    """
    top = Branch("", "")
    known = {"": top}
    for site in sites:
        _at(site.path, known).sites.append(site)
    _fold(top, fact, {})
    return top


def _at(path: str, known: dict[str, Branch]) -> Branch:
    """Give the branch of a path; what is missing above it is made."""
    missing = []
    while path not in known:
        missing.append(path)
        path = path.rpartition(".")[0]
    found = known[path]
    for path in reversed(missing):
        branch = known[path] = Branch(path.rpartition(".")[2], path)
        found.children.append(branch)
        found = branch
    return found


def _fold(branch: Branch, fact: Callable[[str], Hashable], numbers: dict[object, int]) -> int:
    """Fold equal numbered branches, innermost first; give a number that equal ones share."""
    groups: dict[object, list[Branch]] = {}
    order = []
    for child in branch.children:
        kind = _fold(child, fact, numbers)
        key: object = (kind, None if child.name.isdecimal() else child.name)
        groups.setdefault(key, []).append(child)
    for key, equal in groups.items():
        first = equal[0]
        if len(equal) > 1:
            first.name, first.copies = ranges_text(int(c.name) for c in equal), len(equal)
        order.append((first.name, key))
    branch.children = [equal[0] for equal in groups.values()]
    meaning = (tuple(map(_kind, branch.sites)), fact(branch.path), tuple(order))
    return numbers.setdefault(meaning, len(numbers))


def _kind(site: Site) -> object:
    rows = tuple(sorted(site.rows.items()))
    facts = (site.types, site.roles, rows, site.shape, site.evidence, site.tower, site.direct)
    return (*facts, len(site.paths), site.is_parameter, site.tied is None)


def _is_plain(branch: Branch, roles: frozenset[str]) -> bool:
    if len(branch.sites) != 1 or branch.children:
        return False
    site = branch.sites[0]
    return site.is_parameter and site.roles <= roles and not site.rows and not site.tied
