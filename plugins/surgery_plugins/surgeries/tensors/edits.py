"""From the tensors that names find to edits: what is rewritten, added and dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.errors import RefusedError
from surgery.operate.dtypes import name_of
from surgery.operate.edits import AddTensor, DropTensor, Edit, NewTensor, Place, Rewrite
from surgery.operate.table import named_tensors
from surgery_plugins.surgeries.tensors.groups import Group, check_targets, each, followed, joined
from surgery_plugins.surgeries.tensors.results import Result, results_of
from surgery_plugins.surgeries.tensors.surgery import ANY, FOLLOW

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.anatomy.site import Site
    from surgery_plugins.surgeries.tensors.surgery import Tensors


def edits_of(surgery: Tensors, sites: Sequence[Site], model: nn.Module) -> Iterator[Edit]:
    """Give the edits of a surgery.

    Args:
        surgery: what is done.
        sites: where tensors are looked for, and below.
        model: what is operated on.

    Raises:
        RefusedError: names find nothing or too much, or what is found does not fit.
    """
    held = {name: tensor for name, tensor, persistent in named_tensors(model) if persistent}
    tops = [path for site in sites for path in (*site.paths, site.parameter or site.path)]
    groups = _groups(surgery, {n: t for n, t in held.items() if any(_within(n, p) for p in tops)})
    gone = _gone(surgery, groups)
    _check_gone(gone, held, model)
    yield from _results(surgery, groups, held, model)
    yield from map(DropTensor, gone)


def _within(name: str, top: str) -> bool:
    return not top or name == top or name.startswith(top + ".")


def _groups(surgery: Tensors, known: Mapping[str, Tensor]) -> list[Group]:
    if surgery.do in ANY:
        groups = _once(each(surgery.patterns, known), known)
    else:
        groups = followed(surgery.patterns, surgery.targets, known)
        groups = joined(groups) if surgery.do in FOLLOW else groups
        check_targets(groups)
    found = len({name for group in groups for name in group.sources})
    if surgery.count not in (None, found):
        names = ", ".join(surgery.patterns)
        raise RefusedError(f"tensors.names: {names}", f"{surgery.count} tensors", str(found))
    return groups


def _once(groups: Sequence[Group], known: Mapping[str, Tensor]) -> list[Group]:
    """Leave out groups whose one tensor is there under another name already."""
    found = {id(known[group.sources[0]]): group for group in reversed(groups)}
    return list(reversed(found.values()))


def _gone(surgery: Tensors, groups: Sequence[Group]) -> list[str]:
    """Give the names that are there no more afterwards."""
    goes = ("move", "remove", "add", "split", "concatenate", "stack")
    if surgery.do not in goes or surgery.keep:
        return []
    made = {target for group in groups for target in group.targets}
    sources = dict.fromkeys(name for group in groups for name in group.sources)
    return [name for name in sources if name not in made]


def _check_gone(gone: Sequence[str], held: Mapping[str, Tensor], model: nn.Module) -> None:
    from surgery_plugins.modules.container import is_container

    modules = dict(model.named_modules(remove_duplicate=False))
    for name in gone:
        holder = modules[name.rpartition(".")[0]]
        if not is_container(holder):
            raise RefusedError(
                f"tensors: {name}", "a bare state dict, to take a name out of it",
                f"a tensor of {type(holder).__name__}",
                "write `keep: true`, or `do: copy`; or `patient: {source: tensors, ...}`",
            )  # fmt: skip


def _results(
    surgery: Tensors, groups: Sequence[Group], held: Mapping[str, Tensor], model: nn.Module
) -> Iterator[Edit]:
    if surgery.do == "remove":
        if len(groups) == len(held):
            raise RefusedError("tensors.names", "something to be left", "every tensor")
        return
    modules = dict(model.named_modules(remove_duplicate=False))
    done: dict[int, str] = {}
    for group in groups:
        for result in results_of(group, surgery, held):
            there = held.get(result.name)
            if there is None:
                yield from _added(result, modules)
                continue
            other = done.setdefault(id(there), result.name)
            if other != result.name:
                found = f"one that is tied to {other}"
                raise RefusedError(f"tensors.to: {result.name}", "a tensor for each result", found)
            yield _rewritten(result, there, group, surgery, modules)


def _rewritten(
    result: Result, there: Tensor, group: Group, surgery: Tensors, modules: Mapping[str, nn.Module]
) -> Rewrite:
    """Give the edit for a result whose name is taken."""
    from surgery_plugins.modules.container import is_container

    if result.name not in group.sources and not surgery.replace:
        raise RefusedError(
            f"tensors.to: {result.name}", "a free name", "a tensor of that name",
            "write `replace: true` to replace it",
        )  # fmt: skip
    free = is_container(modules[result.name.rpartition(".")[0]])
    if not free and tuple(there.shape) != result.shape:
        raise RefusedError(
            f"tensors: {result.name}", f"shape {tuple(there.shape)}, which its module takes",
            f"{result.shape} of {', '.join(group.sources)}",
            "only a bare state dict takes any shape",
        )  # fmt: skip
    dtype = result.dtype if free else name_of(there.dtype)
    return Rewrite(result.name, result.shape, dtype, result.value)


def _added(result: Result, modules: dict[str, nn.Module]) -> Iterator[Edit]:
    """Give the edits for a result whose name is free; containers are placed once."""
    from torch import nn

    from surgery_plugins.modules.container import Container, is_container

    path = result.name.rpartition(".")[0]
    missing = []
    while path not in modules:
        missing.append(path)
        path = path.rpartition(".")[0]
    if not is_container(modules[path]):
        raise RefusedError(
            f"tensors.to: {result.name}", "the name of a tensor of the model", "no such tensor",
            "only a bare state dict takes new names: `patient: {source: tensors, ...}`",
        )  # fmt: skip
    for one in reversed(missing):
        modules[one] = Container()
        yield Place(one, modules[one], {})
    buffer = not isinstance(result.like, nn.Parameter)
    trains = result.like.requires_grad
    new = NewTensor(result.shape, result.dtype, result.value, trains and not buffer, buffer)
    yield AddTensor(result.name, new)
