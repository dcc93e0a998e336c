"""Each adapter of a model as PEFT would hold it: names, shapes, and exact equivalents.

Rows of a fused weight have no form of their own in PEFT; the adapters of one weight become one of
the summed rank, with zeros in B where an adapter does not reach. That is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isclose
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery_plugins.peft.beginning import Beginning
from surgery_plugins.peft.layout import all_channels
from surgery_plugins.peft.stack import stacked
from surgery_plugins.peft.targets import is_attention, other_settings
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, LINEAR, TABLE, Branch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Form:
    """One adapted weight as PEFT names it.

    Attributes:
        name: path of the module, or dotted name of the parameter.
        rank: PEFT's rank.
        scale: what the product is multiplied with.
        rslora: True where the scale is ``alpha / sqrt(r)``.
        dora: True for DoRA.
        dropout: share of dropped inputs.
        transposed: True where the weight is stored input first.
        target_module: False for a raw parameter.
        tensors: PEFT's tensors, by name without the common prefix.
    """

    name: str
    rank: int
    scale: float
    rslora: bool
    dora: bool
    dropout: float
    transposed: bool = False
    target_module: bool = True
    tensors: dict[str, Tensor] = field(default_factory=dict)


def forms_of(model: nn.Module, adapter: str, begin: Beginning | None = None) -> list[Form]:
    """Give the forms of one adapter of a model.

    Args:
        model: the model, its tensors filled.
        adapter: the adapter's name.
        begin: tells what adapters took from the base when they began.

    Raises:
        RefusedError: PEFT has no form for it.
    """
    from surgery_plugins.surgeries.lora.adapters import branches

    found: dict[tuple[str, str], list[tuple[nn.Module, Branch]]] = {}
    for path, module, branch in branches(model):
        if branch.adapter == adapter:
            found.setdefault((path, branch.leaf), []).append((module, branch))
    modules = dict(model.named_modules())
    forms = [_form(path, leaf, group, begin) for (path, leaf), group in found.items()]
    return _with_attention(_nested(forms, modules), modules)


def _form(
    path: str, leaf: str, group: list[tuple[nn.Module, Branch]], begin: Beginning | None
) -> Form:
    module, first = group[0]
    a, b, m, rank, scale = stacked(path, group, begin)
    rslora = not isclose(first.scale, first.alpha / first.rank) and first.rank > 1
    dropout = max(branch.dropout for _, branch in group)
    form = Form(path, rank, scale, rslora, m is not None, dropout)
    if first.kind == TABLE and not is_attention(module):
        named = replace(form, name=f"{path}.{leaf}", target_module=False)
        return _parameter(named, module, first, a, b)
    if is_attention(module) and m is not None:
        raise _cannot(path, "DoRA on torch's attention")
    word = "lora_embedding_" if first.kind == EMBEDDING else "lora_"
    end = "" if first.kind == EMBEDDING else ".weight"
    if first.kind == CONV:
        a = _convolution(path, module, a, first.rank)
    tensors = {f"{path}.{word}A{end}": a, f"{path}.{word}B{end}": b}
    if m is not None:
        shape = (1, -1, *([1] * (a.dim() - 2))) if first.kind == CONV else (-1,)
        tensors[f"{path}.lora_magnitude_vector"] = m.reshape(shape)
    transposed = first.kind == LINEAR and first.out_axis == 1
    return replace(form, tensors=tensors, transposed=transposed)


def _convolution(path: str, module: Any, a: Tensor, rank: int) -> Tensor:
    """Give A over all input channels, as PEFT has it, whatever the base's groups.

    Raises:
        RefusedError: PEFT runs A with other settings than the base's.
    """
    if why := other_settings(module):
        raise _cannot(path, why)
    if module.groups > 1 and a.shape[0] != rank:
        raise _cannot(path, "two adapters of a convolution in groups")
    return all_channels(a, module.groups) if module.groups > 1 else a


def _parameter(form: Form, module: nn.Module, branch: Branch, a: Tensor, b: Tensor) -> Form:
    """Give a raw parameter's form: experts are folded into the rank, ``(e r, in)``, ``(out, r e)``.

    PEFT takes the last two axes as ``(out, in)`` unless the module says ``is_transposed``; where
    ours is the other way round, A and B change places.
    """
    path, _, _ = form.name.rpartition(".")
    experts = a.dim() == 3
    told = experts and bool(getattr(module, "is_transposed", False))
    if (branch.out_axis == a.dim() - 1) != told:
        a, b = b.transpose(-1, -2), a.transpose(-1, -2)
    if experts:
        a = a.reshape(-1, a.shape[-1])
        b = b.permute(1, 2, 0).reshape(b.shape[1], -1)
    tensors = {f"{path}.lora_A.weight": a.contiguous(), f"{path}.lora_B.weight": b.contiguous()}
    return replace(form, tensors=tensors)


def _nested(forms: list[Form], modules: Mapping[str, nn.Module]) -> list[Form]:
    """Name the tensors of several raw parameters of one module as PEFT nests their wrappers."""
    by_module: dict[str, list[Form]] = {}
    for form in forms:
        if not form.target_module:
            by_module.setdefault(form.name.rpartition(".")[0], []).append(form)
    renamed: dict[str, Form] = {}
    for path, group in by_module.items():
        order = list(modules[path]._parameters)
        ordered = sorted(group, key=lambda f: order.index(f.name.rpartition(".")[2]))
        for depth, form in enumerate(ordered):
            inner = ".base_layer" * (len(ordered) - 1 - depth)
            tensors = {k.replace(path, path + inner, 1): t for k, t in form.tensors.items()}
            renamed[form.name] = replace(form, tensors=tensors)
    return [renamed.get(form.name, form) for form in forms]


def _with_attention(forms: list[Form], modules: Mapping[str, nn.Module]) -> list[Form]:
    """Join in- and out-projection of torch's attention, which PEFT adapts together."""
    owners = {
        form.name.removesuffix(".out_proj"): None
        for form in forms
        if (module := modules.get(form.name.removesuffix(".out_proj"))) and is_attention(module)
    }
    others = [f for f in forms if f.name.removesuffix(".out_proj") not in owners]
    return others + [_attention(path, forms, modules[path]) for path in owners]


def _attention(path: str, forms: Iterable[Form], module: Any) -> Form:
    """Give the form of torch's attention: PEFT wants an out-projection too, which is zero here.

    An adapter of the out-projection has no form: PEFT 0.21 adds its product twice, once in
    ``MultiheadAttention.merge`` and once in the ``Linear.merge`` that this calls.
    """
    parts = {form.name: form for form in forms}
    if f"{path}.out_proj" in parts:
        raise _cannot(f"{path}.out_proj", "the out-projection of torch's attention, applied twice")
    if module.in_proj_weight is None:
        raise _cannot(path, "attention with separate weights for q, k and v")
    known, width = parts[path], module.embed_dim
    (a, b), place = known.tensors.values(), f"{path}.base_layer.out_proj.lora"
    nothing = {
        f"{place}_A.weight": a.new_zeros(known.rank, width),
        f"{place}_B.weight": b.new_zeros(width, known.rank),
    }
    return replace(known, tensors={**known.tensors, **nothing})


def _cannot(path: str, what: str) -> RefusedError:
    return RefusedError(
        f"{path} (peft)", "an adapter that PEFT can express", what,
        "leave it out of the export, or merge the adapter into the weights",
    )  # fmt: skip
