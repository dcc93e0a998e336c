"""Build everything that a training runs on, in the one order that works."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from surgery.anatomy.site import Anatomy
from surgery.anatomy.walk import walk
from surgery.errors import RefusedError
from surgery.operate.operation import Operation
from surgery.operate.patient import Patient
from surgery.recipe.recipe import Recipe
from surgery.training.average import Average
from surgery.training.feed import Order, Reading
from surgery.training.guards import Guards
from surgery.training.judge import Judge
from surgery.training.loop import Loop
from surgery.training.mixture import mixed
from surgery.training.optimize import groups_of, optimizer_of
from surgery.training.records import Records
from surgery.training.setup import Setup
from surgery.training.state import Progress
from surgery.training.strategy import World, Wrapped, recompute, wrap

Show = Callable[[Mapping[str, Any], int], object]
"""Called with the numbers of a step and the number of all steps."""


@dataclass(frozen=True)
class Telling:
    """Where a training tells what it does.

    Attributes:
        remark: called with remarks.
        show: called with numbers.
        records: what is written down; None in all processes but the first.
        every: steps between two records.
    """

    remark: Callable[[str], object]
    show: Show
    records: Records | None
    every: int

    def numbers(self, numbers: dict[str, Any], steps: int) -> None:
        """Record numbers, those of steps from time to time, and show all of them."""
        if self.records is None:
            return
        step = numbers.get("step", 1)
        if "loss" not in numbers or step % self.every == 0 or step in (1, steps):
            self.records.write(numbers)
        self.show(numbers, steps)


@dataclass
class Session:
    """A training that is ready to run.

    Attributes:
        setup: what the recipe says.
        loop: the loop.
        digest: sha256 of what decides the course of the training.
    """

    setup: Setup
    loop: Loop
    digest: str

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.loop.wrapped.trainee.model


def session_of(
    setup: Setup, recipe: Recipe, operation: Operation, world: World, telling: Telling
) -> Session:
    """Build a training of a patient whose surgeries are done: dtype, strategy, optimizer.

    Args:
        setup: what the recipe says.
        recipe: the recipe.
        operation: the patient after its surgeries.
        world: the processes.
        telling: where to tell what happens.

    Raises:
        SurgeryError: the recipe does not fit the patient, the samples or the processes.
    """
    form, model = setup.form, operation.patient.model
    anatomy = _anatomy(setup, operation)
    groups = groups_of(model, anatomy, form.optimizer, form.groups)
    _to_float(model, form.precision)
    model.to(world.device)
    wrapped = _wrapped(setup, model, anatomy, world)
    optimizer = optimizer_of(dict(model.named_parameters()), groups, form.optimizer)
    average = Average(model, form.ema.decay) if form.ema else None
    guards = Guards(
        model, optimizer, frozenset(operation.plan.trainable), form.guards, telling.remark,
        tuple(setup.objective.teachers(model)), world, average,
    )  # fmt: skip
    patient = replace(operation.patient, model=nn.Module())
    reading = Reading(mixed(setup.data, setup.seed), setup.objective, patient, setup.seed)
    order, steps = _order(setup, reading, world, telling)
    loop = Loop(
        form, wrapped, optimizer, guards, reading, order, steps, Progress(),
        average=average,
        scaler=_scaler(form.precision, world),
        record=lambda numbers: telling.numbers(numbers, steps),
    )  # fmt: skip
    loop.judge = _judge(setup, patient, loop)
    return Session(setup, loop, digest_of(recipe))


def _anatomy(setup: Setup, operation: Operation) -> Anatomy:
    """Walk the model; a forward is observed only where something needs roles or layers."""
    form = setup.form
    wants = form.recompute or form.strategy == "fsdp2"
    selectors = [group.at.selector() for group in form.groups if group.at is not None]
    traced = wants or any(selector.needs_trace for selector in selectors)
    return walk(operation.patient.model, operation.patient.inputs, trace=traced)


def _to_float(model: nn.Module, precision: str) -> None:
    """Keep what is trained in float32 where forwards are cast to less."""
    if precision == "float32":
        return
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def _wrapped(setup: Setup, model: nn.Module, anatomy: Anatomy, world: World) -> Wrapped:
    units = _units(model, anatomy)
    if setup.form.recompute:
        recompute(units)
    form = setup.form
    wrapped = wrap(model, setup.objective, form.strategy, world, units, offload=form.offload)
    wrapped.module.train()
    return wrapped


def _units(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """Give the repeated layers, outermost ones only."""
    paths = [site.path for site in anatomy.sites if "layer" in site.roles]
    outer = [p for p in paths if not any(p.startswith(f"{q}.") for q in paths)]
    return [model.get_submodule(path) for path in outer]


def _order(setup: Setup, reading: Reading, world: World, telling: Telling) -> tuple[Order, int]:
    """Give the order of the samples, and the number of steps."""
    form = setup.form
    micro = form.micro or form.batch // world.size
    if micro < 1 or form.batch % (micro * world.size):
        raise RefusedError(
            "train.batch", f"a multiple of micro {micro} times {world.size} processes",
            str(form.batch), "change batch or micro",
        )  # fmt: skip
    count, lengths = len(reading.samples), None
    if form.group_by_length:
        telling.remark(f"count the tokens of {count} samples ...")
        lengths = reading.lengths()
    order = Order(count, form.batch, micro, setup.seed, world.rank, world.size, lengths)
    return order, form.steps or order.steps_of(form.epochs or 1)


def _scaler(precision: str, world: World) -> torch.amp.GradScaler | None:
    return torch.amp.GradScaler(world.device.type) if precision == "float16" else None


def _judge(setup: Setup, patient: Patient, loop: Loop) -> Judge | None:
    if setup.evaluation is None:
        return None
    samples, form = setup.evaluation.open(), setup.form
    return Judge(
        loop.wrapped, Reading(samples, setup.objective, patient, setup.seed), len(samples),
        loop.order.micro, loop.average, form.precision, form.evaluate.batches,
    )  # fmt: skip


def digest_of(recipe: Recipe) -> str:
    """Give the sha256 of what decides the course of a training."""
    data = recipe.resolved
    free = {"run", "log", "save", "workers", "strategy", "guards", "micro", "recompute", "offload"}
    data["train"] = {k: v for k, v in data.get("train", {}).items() if k not in free}
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
