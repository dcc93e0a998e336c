"""Build optimizer and schedule of what takes gradients, in groups with settings of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.select import select
from surgery.anatomy.site import Anatomy
from surgery.errors import SelectionError, TrainingError
from surgery.recipe.train_form import GroupForm, OptimizerForm, ScheduleForm
from surgery.training.flat import Flat

LARGE = 2**15
"""Numbers of a tensor, on average, from which on flat buffers gain nothing."""


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
        name: how logs call it.
        names: the parameters.
        lr: learning rate after the warm-up.
        weight_decay: weight decay.
    """

    name: str
    names: tuple[str, ...]
    lr: float
    weight_decay: float


def groups_of(
    model: nn.Module,
    anatomy: Anatomy | None,
    optimizer: OptimizerForm,
    forms: Sequence[GroupForm],
) -> list[Group]:
    """Sort what takes gradients into groups; biases and norms do not decay.

    Args:
        model: the patient's model.
        anatomy: its sites; needed where a group is selected by them.
        optimizer: settings of what no group names.
        forms: the groups; of two that name a parameter, the first has it.

    Raises:
        SelectionError: a group names nothing that takes gradients.
        TrainingError: nothing at all takes gradients.
    """
    free = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not free:
        raise TrainingError("train", "tensors that take gradients", "none",
                            "add what trains, such as `use: lora`, or `use: unfreeze`")  # fmt: skip
    rest, groups = dict(free), []
    for number, form in enumerate(forms):
        names = [n for n in rest if n in _named(form, anatomy, free, number)]
        where = f"train.groups[{number}]"
        if not names:
            raise SelectionError(where, "tensors that take gradients and no earlier group has",
                                 "none", "see `surgery plan` for what is trainable")  # fmt: skip
        lr = form.lr or optimizer.lr * (form.scale or 1.0)
        decay = optimizer.weight_decay if form.weight_decay is None else form.weight_decay
        groups += _by_decay(f"group{number}", {n: rest.pop(n) for n in names}, lr, decay)
    return groups + _by_decay("rest", rest, optimizer.lr, optimizer.weight_decay)


def _named(
    form: GroupForm, anatomy: Anatomy | None, free: Mapping[str, Any], number: int
) -> set[str]:
    if form.tensors is not None:
        return {name for name in free if fnmatchcase(name, form.tensors)}
    assert form.at is not None
    assert anatomy is not None
    where = f"train.groups[{number}].at"
    paths = {site.path for site in select(anatomy, form.at.selector(), where=where)}
    return {name for name in free if name in paths or name.rpartition(".")[0] in paths}


def _by_decay(
    name: str, parameters: Mapping[str, nn.Parameter], lr: float, decay: float
) -> list[Group]:
    flat = tuple(n for n, p in parameters.items() if decay and p.dim() < 2)
    whole = tuple(n for n in parameters if n not in flat)
    found = [Group(name, whole, lr, decay)] if whole else []
    return found + ([Group(f"{name}-flat", flat, lr, 0.0)] if flat else [])


def optimizer_of(
    parameters: Mapping[str, nn.Parameter], groups: Iterable[Group], form: OptimizerForm
) -> torch.optim.Optimizer:
    """Build the optimizer, torch's own; on flat buffers where tensors are small and not spread.

    A kernel for each large tensor costs no more than one for all, and needs no copy of gradients.

    Args:
        parameters: by name.
        groups: the groups.
        form: algorithm and settings.
    """
    listed: list[dict[str, Any]] = [
        {
            "params": [parameters[name] for name in group.names],
            "lr": group.lr,
            "base_lr": group.lr,
            "weight_decay": group.weight_decay,
            "name": group.name,
        }
        for group in groups
    ]
    make = partial(_torch_optimizer, form)
    held = [p for group in listed for p in group["params"]]
    spread = any(hasattr(p, "device_mesh") for p in held)
    large = sum(p.numel() for p in held) > LARGE * len(held)
    return make(listed) if spread or large else Flat(listed, make)


def _torch_optimizer(form: OptimizerForm, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if form.name == "sgd":
        return torch.optim.SGD(groups, lr=form.lr, momentum=form.momentum)
    kind = torch.optim.AdamW if form.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=form.lr, betas=form.betas, eps=form.eps, fused=True)


def clip(optimizer: torch.optim.Optimizer, most: float | None) -> float:
    """Scale all gradients so that their norm is at most so great, and give the norm before.

    As ``torch.nn.utils.clip_grad_norm_``, but gradients that are small enough are not touched.

    Args:
        optimizer: holds what has gradients.
        most: the greatest norm, or None to scale nothing.
    """
    if isinstance(optimizer, Flat):
        held: list[Tensor] = optimizer.collect()
    else:
        held = [p for group in optimizer.param_groups for p in group["params"]]
    norm: Any = nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
    found = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    if most is not None and not found <= most:
        nn.utils.clip_grads_with_norm_(held, most, norm)
    return found


def factor_at(form: ScheduleForm, step: int, steps: int) -> float:
    """Give the share of the learning rate that a step has.

    It rises evenly over the warm-up, then stays, falls evenly, or falls as half a cosine wave
    (arXiv 1608.03983) to the floor.

    Args:
        form: the schedule.
        step: the step, counted from 0.
        steps: all steps.
    """
    warmup = form.warmup * steps if 0 < form.warmup < 1 else form.warmup
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    fall = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + cos(pi * done)) / 2}[form.name]
    return form.floor + (1 - form.floor) * fall


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its share of its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
