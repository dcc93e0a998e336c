"""The surgery ``merge``: fold extensions into the weights that they change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pydantic import Field

from surgery.anatomy.extended import EXTENSIONS, bare_class
from surgery.anatomy.site import Site
from surgery.errors import ProofError, RefusedError
from surgery.operate.dtypes import name_of
from surgery.operate.edits import Derive, Detach, Edit, Extend, Rewrite
from surgery.operate.stretches import Stretches, joined
from surgery.operate.surgery import AtInit, Surgery

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from surgery.operate.patient import Patient


@runtime_checkable
class Foldable(Protocol):
    """Settings of an extension whose effect can be folded into the weight that it changes."""

    @property
    def leaf(self) -> str:
        """Name of the weight in its module."""

    def factors(self) -> tuple[str, ...]:
        """Give the names of the extension's tensors in its module, in the order of ``fold``."""

    @staticmethod
    def fold(
        weight: Stretches,
        extensions: Sequence[tuple[Any, Sequence[Tensor]]],
        generator: Generator,
    ) -> Iterator[tuple[Tensor, float]]:
        """Fold extensions into a weight, by float32 arithmetic and one rounding, and compare.

        The comparison is with the extensions beside the base, on random inputs.

        Args:
            weight: the base weight.
            extensions: settings and tensors of each.
            generator: draws the inputs.

        Returns:
            Consecutive pieces of a tensor of the weight's shape and dtype; with each the largest
            difference of an output that is known by then, as a share of what rounding the weight
            once, and float32 sums, may make of it.
        """


@dataclass(frozen=True)
class Folding:
    """Compute a weight with extensions of one kind folded in.

    Attributes:
        settings: of each extension.
    """

    settings: tuple[Foldable, ...]

    def __call__(self, weight: Tensor, *tensors: Tensor, generator: Generator) -> Tensor:
        """Fold; see ``pieces``."""
        made = self.pieces(Stretches(weight), *tensors, generator=generator)
        return joined(made, tuple(weight.shape), weight.dtype)

    def pieces(self, first: Stretches, *others: Tensor, generator: Generator) -> Iterator[Tensor]:
        """Fold, a stretch of the weight at a time.

        Args:
            first: the base weight.
            others: the tensors of each extension, one after the other.
            generator: draws the inputs on which the result is compared with its extensions.

        Raises:
            ProofError: an output differs by more than rounding the weight once explains.
        """
        rest, extensions = list(others), []
        for one in self.settings:
            count = len(one.factors())
            extensions.append((one, rest[:count]))
            rest = rest[count:]
        kind = self.settings[0]
        for piece, error in kind.fold(first, extensions, generator):
            if error > 1:
                raise ProofError(
                    f"merge of {kind.leaf} {first.shape}",
                    "outputs that rounding the weight once explains",
                    f"a difference {error:.3g} times as large",
                    "report this; nothing was written",
                )
            yield piece


class Merge(Surgery):
    """Fold extensions, such as adapters, into their weights, and take them away.

    The arithmetic is float32 with one rounding to the weight's dtype. A result that is not
    finite, as by overflow in half precision, fails the proof, and nothing is written.
    """

    name: ClassVar[str] = "merge"
    narrows: ClassVar[frozenset[str]] = frozenset({"*"})
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {
            "after": [
                {
                    "use": "lora",
                    "at": {"role": "attention.q"},
                    "with": {"rank": 2, "init": "gaussian"},
                }
            ]
        },
    )

    extensions: list[str] = Field(
        default_factory=lambda: ["*"],
        description="Names of the extensions to fold, with wildcards, such as lora.default*.",
    )

    @property
    def at_init(self) -> AtInit:
        """Outputs are equal up to one rounding of each weight."""
        return "close"

    def refuse(self, site: Site) -> str | None:
        """Refuse nothing: what has no extension is out of scope."""
        return None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the modules that have such an extension.

        Raises:
            RefusedError: no site has one.
        """
        modules = dict(patient.model.named_modules(remove_duplicate=False))
        found = [s for s in sites if not s.is_parameter and self._mine(modules.get(s.path))]
        if not found:
            raise RefusedError(
                "merge",
                f"modules with an extension named {' or '.join(self.extensions)}",
                f"none among {len(sites)} sites",
                "merge after the surgeries that add adapters",
            )
        return found

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Rewrite each weight once, whatever number of extensions and of names it has.

        Raises:
            RefusedError: a weight is shared with a module that has no such extension, or has
                extensions of several kinds.
        """
        modules = dict(patient.model.named_modules(remove_duplicate=False))
        seen: set[tuple[str, str]] = set()
        for site in sites:
            for leaf in dict.fromkeys(e.settings.leaf for e in self._mine(modules[site.path])):
                if (site.path, leaf) not in seen:
                    holders = _holders(modules, site.path, leaf)
                    seen.update(holders)
                    yield from self._fold(modules, holders)

    def _fold(
        self, modules: dict[str, nn.Module], holders: Sequence[tuple[str, str]]
    ) -> Iterator[Edit]:
        """Fold the extensions of one weight, and take them away from all that hold it."""
        found = [
            [e for e in self._mine(modules[path]) if e.settings.leaf == leaf]
            for path, leaf in holders
        ]
        (path, leaf), first = holders[0], found[0]
        for (other, name), extends in zip(holders, found, strict=True):
            if _tensors(modules[other], extends) != _tensors(modules[path], first):
                raise RefusedError(
                    f"{path}.{leaf} (merge)",
                    "a weight that only modules with the same extension hold",
                    f"one that {other}.{name} shares, and would see changed",
                    "exclude it with `at:`, or break the tie first",
                )
        yield _rewrite(path, modules[path], leaf, first)
        for (other, _), extends in zip(holders, found, strict=True):
            yield from (Detach(other, extend.name) for extend in extends)

    def _mine(self, module: nn.Module | None) -> list[Extend]:
        table: dict[str, Extend] = module.__dict__.get(EXTENSIONS, {}) if module else {}
        return [
            extend
            for name, extend in table.items()
            if isinstance(extend.settings, Foldable)
            and any(fnmatchcase(name, pattern) for pattern in self.extensions)
        ]


def merge_sites(model: nn.Module) -> list[Site]:
    """Give the modules that have extensions."""
    return [
        Site(path=path, paths=(path,), types=(bare_class(module).__name__,), shape=())
        for path, module in model.named_modules()
        if EXTENSIONS in module.__dict__
    ]


def _holders(modules: dict[str, nn.Module], path: str, leaf: str) -> list[tuple[str, str]]:
    """Give each module that holds a weight, by one path, the given one first."""
    weight = modules[path]._parameters[leaf]
    found = {(id(modules[path]), leaf): (path, leaf)}
    for other, module in modules.items():
        for name, tensor in module._parameters.items():
            if tensor is weight:
                found.setdefault((id(module), name), (other, name))
    return list(found.values())


def _tensors(module: nn.Module, extends: Sequence[Extend]) -> list[int]:
    """Identify the tensors of extensions."""
    table: dict[str, Any] = {**module._parameters, **module._buffers}
    return [id(table[name]) for extend in extends for name in extend.settings.factors()]


def _rewrite(path: str, module: nn.Module, leaf: str, group: Sequence[Extend]) -> Rewrite:
    """Give the edit that folds extensions into one weight."""
    kinds = {type(extend.settings) for extend in group}
    if len(kinds) > 1:
        raise RefusedError(
            f"{path}.{leaf} (merge)",
            "extensions of one kind",
            f"{len(kinds)} kinds: {', '.join(sorted(extend.name for extend in group))}",
            "merge twice, with `extensions:` naming one kind each",
        )
    weight = module._parameters[leaf]
    assert weight is not None
    names = [f"{path}.{name}" for extend in group for name in extend.settings.factors()]
    value = Derive((f"{path}.{leaf}", *names), Folding(tuple(e.settings for e in group)))
    return Rewrite(f"{path}.{leaf}", tuple(weight.shape), name_of(weight.dtype), value)
