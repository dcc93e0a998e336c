"""Read the LoRA tensors of an adapter: which weight each pair adapts, and every disagreement.

PEFT loads an adapter whose tensors and configuration disagree without an error: a module without
tensors keeps a fresh adapter that does nothing, a tensor without a module is left out. Here both
are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from surgery.anatomy.site import Site
from surgery.errors import PatientError, Problems, RefusedError, SurgeryError
from surgery.operate.importer import Incoming
from surgery_plugins.peft.folder import Adapter
from surgery_plugins.peft.ground import Ground
from surgery_plugins.peft.layout import Convert, reads_other_groups, their_shapes, to_ours
from surgery_plugins.peft.names import CONFIG, Name
from surgery_plugins.peft.targets import (
    is_attention,
    other_settings,
    pattern_value,
    targeted_modules,
    targeted_parameters,
)
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, TABLE
from surgery_plugins.surgeries.lora.places import Place, place_of, why_not

if TYPE_CHECKING:
    from torch import Tensor

BASE = "is this the adapter's base?"

Spot: TypeAlias = tuple[str, int]
"""A module's path, and how many of PEFT's wrappers of that module lie around."""


@dataclass(frozen=True)
class Pair:
    """The tensors of one adapted weight.

    Attributes:
        weight: path of the module, or name of the raw parameter, as selectors know it.
        pattern: the name that PEFT's rank and alpha patterns see.
        place: the weight.
        keys: names in the file, by part.
        rank: the rank, of each expert where there are any.
        told: True where the module says ``is_transposed``.
    """

    weight: str
    pattern: str
    place: Place
    keys: Mapping[str, str]
    rank: int
    told: bool


def pairs_of(adapter: Adapter, ground: Ground) -> list[Pair]:
    """Give the adapted weights of an adapter.

    Raises:
        Problems: tensors and configuration disagree, or are of another base.
        RefusedError: an adapter that has no exact equivalent here.
    """
    groups = _grouped(adapter)
    wanted = _wanted(adapter, ground)
    problems = list(_disagreements(adapter, ground, groups, wanted))
    if problems:
        raise Problems(str(adapter.folder), problems)
    sites = ground.sites(traced=any(name in ground.tensors for name in wanted.values()))
    pairs = [_pair(adapter, ground, sites, wanted[at], keys) for at, keys in groups.items()]
    problems = [problem for pair in pairs for problem in _wrong(adapter, pair)]
    if problems:
        raise Problems(str(adapter.folder), problems)
    return [pair for pair in pairs if not _means_nothing(adapter, pair, ground)]


def step_options(adapter: Adapter, pair: Pair) -> dict[str, Any]:
    """Give the options of ``lora`` that make an adapter's pair."""
    alpha = pattern_value(
        adapter.config.get("alpha_pattern"), pair.pattern, adapter.option("lora_alpha", 8)
    )
    droppable = pair.place.beside and pair.place.kind != EMBEDDING
    return {
        "adapter": adapter.name,
        "rank": pair.rank,
        "alpha": float(alpha),
        "rslora": bool(adapter.option("use_rslora", False)),
        "dora": bool(adapter.option("use_dora", False)),
        "dropout": float(adapter.option("lora_dropout", 0.0)) if droppable else 0.0,
    }


def tensors_of(adapter: Adapter, pair: Pair) -> Iterator[tuple[str, Incoming]]:
    """Give the tensors of a pair, by the names that ``lora`` gives them."""
    place = pair.place
    leaf = "" if place.leaf == "weight" and pair.weight == place.path else f"_{place.leaf}"
    made = to_ours(place, pair.told)
    shapes = their_shapes(place, pair.rank, pair.told)
    for part, (theirs, convert) in made.items():
        if theirs in pair.keys:
            key = pair.keys[theirs]
            yield (
                f"{place.path}.lora_{adapter.name}{leaf}_{part}",
                Incoming(
                    adapter.where(key),
                    _shape(convert, shapes[theirs]),
                    _Read(adapter, key, convert),
                ),
            )


@dataclass(frozen=True)
class _Read:
    adapter: Adapter
    key: str
    convert: Convert

    def __call__(self) -> Tensor:
        return self.convert(self.adapter.get(self.key))


def _shape(convert: Convert, shape: tuple[int, ...]) -> tuple[int, ...]:
    import torch

    return tuple(convert(torch.empty(shape, device="meta")).shape)


def _grouped(adapter: Adapter) -> dict[Spot, dict[str, str]]:
    """Gather the names of the file by module and depth of wrapping."""
    found: dict[Spot, dict[str, str]] = {}
    for name in adapter.names:
        if name.kind == "lora":
            parts = found.setdefault((name.path, name.depth), {})
            if name.part in parts:
                raise _twice(adapter, name, parts[name.part])
            parts[name.part] = name.key
    return found


def _twice(adapter: Adapter, name: Name, other: str) -> PatientError:
    return PatientError(
        adapter.where(name.key), "one adapter in a file", f"a second one beside {other}",
        "save each adapter by itself with PEFT's save_pretrained",
    )  # fmt: skip


def _wanted(adapter: Adapter, ground: Ground) -> dict[Spot, str]:
    """Give the weights that the configuration means, by where PEFT keeps their tensors."""
    found: dict[Spot, str] = {}
    for path in targeted_modules(adapter.config, ground.model):
        if is_attention(ground.modules[path]):
            found[path, 0] = f"{path}.in_proj_weight"
            found[f"{path}.out_proj", 0] = f"{path}.out_proj"
        else:
            found[path, 0] = path
    by_module: dict[str, list[str]] = {}
    for name in targeted_parameters(adapter.config, ground.model):
        by_module.setdefault(name.rpartition(".")[0], []).append(name)
    for path, names in by_module.items():
        found.update({(path, depth): name for depth, name in enumerate(reversed(names))})
    if adapter.option("ensure_weight_tying", False):
        found.update({(path, 0): path for path in _tied_with_embedding(ground, found)})
    return found


def _tied_with_embedding(ground: Ground, found: Mapping[Spot, str]) -> list[str]:
    """Give the modules to which PEFT gives the embedding's adapter too."""
    name = f"{ground.embedding}.weight"
    if (ground.embedding, 0) not in found or name not in ground.tensors:
        return []
    return [other.removesuffix(".weight") for other in ground.names_of(name)]


def _disagreements(
    adapter: Adapter,
    ground: Ground,
    groups: Mapping[Spot, Mapping[str, str]],
    wanted: Mapping[Spot, str],
) -> Iterator[SurgeryError]:
    parts = {"A", "B", "M"} if adapter.option("use_dora", False) else {"A", "B"}
    for spot, keys in groups.items():
        first = adapter.where(next(iter(keys.values())))
        if spot[0] not in ground.modules:
            yield PatientError(first, "a module of the model", f"none at {spot[0]}", BASE)
        elif spot not in wanted:
            found = f"a tensor of {spot[0]}, which it does not select"
            yield PatientError(first, f"what {CONFIG} selects", found, _IGNORED)
        elif set(keys) != parts:
            have, need = " and ".join(sorted(keys)), " and ".join(sorted(parts))
            yield PatientError(first, f"{need} of {spot[0]}", f"{have} alone", _WHOLE)
    for spot in wanted.keys() - groups.keys():
        yield PatientError(
            str(adapter.file), f"tensors of {wanted[spot]}, which {CONFIG} selects", "none", _WHOLE
        )


_IGNORED = "PEFT would leave it out without a word; mend target_modules"
_WHOLE = "is the file whole? PEFT would load it and adapt less than it says"


def _pair(
    adapter: Adapter,
    ground: Ground,
    sites: Mapping[str, Site],
    weight: str,
    keys: Mapping[str, str],
) -> Pair:
    site = sites[weight]
    if why := why_not(site, bool(adapter.option("use_dora", False))):
        raise RefusedError(f"{adapter.folder}: {weight}", "a weight that `lora` can adapt", why)
    place = place_of(site, ground.modules)
    experts = place.shape[0] if len(place.shape) == 3 and place.kind == TABLE else 1
    module: Any = ground.modules[place.path]
    told = experts > 1 and bool(getattr(module, "is_transposed", False))
    rank = adapter.shapes[keys["A"]][0] // experts
    return Pair(site.path, weight, place, keys, rank, told)


def _wrong(adapter: Adapter, pair: Pair) -> Iterator[SurgeryError]:
    """Find a rank that is not the configuration's, and shapes that are not the base's."""
    said = pattern_value(adapter.config.get("rank_pattern"), pair.pattern, adapter.option("r", 8))
    where = adapter.where(pair.keys["A"])
    if said != pair.rank:
        yield PatientError(where, f"rank {said}, as {CONFIG} says", f"rank {pair.rank}")
        return
    for part, wanted in their_shapes(pair.place, pair.rank, pair.told).items():
        if part in pair.keys and adapter.shapes[pair.keys[part]] != wanted:
            key = pair.keys[part]
            yield PatientError(
                adapter.where(key), f"shape {wanted}", f"shape {adapter.shapes[key]}", BASE
            )


def _means_nothing(adapter: Adapter, pair: Pair, ground: Ground) -> bool:
    """Tell whether a pair is zero by design; refuse what PEFT computes in a way of its own.

    Raises:
        RefusedError: there is no exact equivalent.
    """
    parent = ground.modules.get(pair.place.path.rpartition(".")[0])
    if is_attention(parent):
        if bool(adapter.get(pair.keys["B"]).any()):
            raise _own_way(adapter, pair, "an adapter of it, whose product PEFT adds twice")
        return True
    if pair.place.kind == CONV:
        _check_convolution(adapter, pair, ground.modules[pair.place.path])
    return False


def _check_convolution(adapter: Adapter, pair: Pair, module: Any) -> None:
    """Refuse convolutions whose adapter PEFT runs with other settings than the base's."""
    if why := other_settings(module):
        raise _own_way(adapter, pair, why)
    groups = pair.place.groups
    if groups > 1 and reads_other_groups(adapter.get(pair.keys["A"]), groups):
        raise _own_way(adapter, pair, f"A over the channels of all {groups} groups")


def _own_way(adapter: Adapter, pair: Pair, found: str) -> RefusedError:
    return RefusedError(
        f"{adapter.folder}: {pair.weight}", "an adapter that is a change of the weight", found,
        "make it anew with `lora`",
    )  # fmt: skip
