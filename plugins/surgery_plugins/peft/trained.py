"""Tensors of the base that were trained, as PEFT would hold them: whole modules, biases, rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgery.anatomy.extended import EXTENSIONS
from surgery.errors import RefusedError
from surgery_plugins.peft.ground import Ground, in_memory
from surgery_plugins.peft.targets import saved_modules
from surgery_plugins.surgeries.freeze import RowSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

_EMBEDDINGS = frozenset(("embed_tokens", "lm_head"))
"""Names of the modules that PEFT knows to tie."""


@dataclass(frozen=True)
class Kept:
    """What of the base an adapter carries.

    Attributes:
        config: keys of PEFT's configuration.
        tensors: PEFT's tensors, by name without the common prefix.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def kept(model: nn.Module, names: Iterable[str], adapted: Iterable[str]) -> Kept:
    """Give what an adapter carries beside its low-rank pairs.

    Args:
        model: the model, its tensors filled.
        names: the base's tensors that were trained as a whole.
        adapted: paths of the modules that have low-rank adapters.

    Raises:
        RefusedError: PEFT cannot express it.
    """
    ground, paths = Ground(model), set(adapted)
    every = {alias for name in names for alias in ground.names_of(name)}
    asked = _topmost({_owner(n) for n in every if not n.endswith(".bias")})
    modules = saved_modules({"modules_to_save": asked}, model)
    biases = {name for name in every if not any(_under(name, path) for path in modules)}
    config, tensors = _biases(ground, biases, paths, modules)
    rows = _rows(ground)
    _check_free(modules, {**dict.fromkeys(rows, "rows"), **dict.fromkeys(paths, "an adapter")})
    _check_free(rows, dict.fromkeys(paths, "an adapter"))
    _check_met(ground, rows)
    for path in modules:
        tensors |= {name: ground.tensors[name] for name in ground.below(path)}
    if modules:
        config |= {"modules_to_save": asked, "ensure_weight_tying": _tied(ground, modules)}
    if rows:
        config["trainable_token_indices"] = {path: indices for path, (indices, _) in rows.items()}
        key = "{}.token_adapter.trainable_tokens_delta"
        tensors |= {key.format(path): values for path, (_, values) in rows.items()}
    return Kept(config, {name: in_memory(name, tensor) for name, tensor in tensors.items()})


def _owner(name: str) -> str:
    path = name.rpartition(".")[0]
    if not path:
        raise _cannot(name, "a trained tensor of the model itself, which is no module's")
    return path


def _under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _topmost(paths: Iterable[str]) -> list[str]:
    found: list[str] = []
    for path in sorted(paths):
        if not any(_under(path, top) for top in found):
            found.append(path)
    return found


def _biases(
    ground: Ground, trained: set[str], adapted: set[str], modules: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give the biases as PEFT saves them: those of adapted modules, or all; more do no harm."""
    if not trained:
        return {}, {}
    beside = {f"{path}.bias" for path in adapted} & ground.tensors.keys()
    whole = {name for name in ground.tensors if name.endswith(".bias")}
    chosen = beside if trained <= beside else whole
    named = {
        f"{name[:-5]}.base_layer.bias" if name[:-5] in adapted else name: ground.tensors[name]
        for name in sorted(chosen)
        if not any(_under(name, path) for path in modules)
    }
    return {"bias": "lora_only" if trained <= beside else "all"}, named


def _rows(ground: Ground) -> dict[str, tuple[list[int], Tensor]]:
    """Give row numbers and values of the modules with trained rows."""
    import torch

    found: dict[str, tuple[list[int], Tensor]] = {}
    for path, settings in _row_settings(ground):
        module = ground.modules[path]
        if settings.leaf != "weight" or not _peft_trains_rows(module):
            raise _cannot(path, "trained rows of what is no embedding and no head without bias")
        values = module._parameters[settings.rows]
        assert values is not None
        numbers = [row for start, stop in settings.ranges for row in range(start, stop)]
        before = found.get(path, ([], values[:0]))
        found[path] = (before[0] + numbers, torch.cat([before[1], values]).detach())
    if ground.embedding in found and _peft_ties(ground):
        tied = ground.names_of(f"{ground.embedding}.weight")
        for name in tied:
            if _owner(name) != ground.embedding:
                found.pop(_owner(name), None)
    return found


def _row_settings(ground: Ground) -> Iterator[tuple[str, RowSettings]]:
    for path, module in ground.modules.items():
        for extend in module.__dict__.get(EXTENSIONS, {}).values():
            if isinstance(extend.settings, RowSettings):
                yield path, extend.settings


def _peft_trains_rows(module: nn.Module) -> bool:
    names = {base.__name__ for base in type(module).__mro__}
    return "Embedding" in names or ("Linear" in names and module._parameters.get("bias") is None)


def _peft_ties(ground: Ground) -> bool:
    """Tell whether PEFT lets the head follow the embedding's rows."""
    return bool(getattr(getattr(ground.model, "config", None), "tie_word_embeddings", False))


def _tied(ground: Ground, modules: list[str]) -> bool:
    """Tell whether PEFT can keep the embedding and the head tied: names it knows, no bias."""
    name = f"{ground.embedding}.weight"
    if ground.embedding not in modules or name not in ground.tensors:
        return False
    tied = [_owner(one) for one in ground.names_of(name)]
    alone = all(set(ground.below(path)) == {f"{path}.weight"} for path in tied)
    known = all(path.rpartition(".")[2] in _EMBEDDINGS for path in tied)
    return len(tied) > 1 and alone and known and _peft_ties(ground)


def _check_free(paths: Iterable[str], others: Mapping[str, str]) -> None:
    """Refuse a module that PEFT would replace although there is something in it."""
    for path in paths:
        if inside := next((one for one in others if _under(one, path)), None):
            raise _cannot(path, f"one trained itself, of which {inside} has {others[inside]} too")


def _check_met(ground: Ground, paths: Iterable[str]) -> None:
    """Refuse rows of a module whose path others end with: PEFT takes all of them."""
    for path in paths:
        met = set(saved_modules({"modules_to_save": [path]}, ground.model)) - {path}
        if met - set(paths):
            raise _cannot(path, f"rows of a path with which {min(met)} ends too")


def _cannot(path: str, what: str) -> RefusedError:
    return RefusedError(
        f"{path} (peft)", "a training that PEFT can express", what,
        "leave it out of the export, or save the whole model",
    )  # fmt: skip
