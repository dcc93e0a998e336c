"""Guards: what stops a training that would go on for a night and teach nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgery.anatomy.extended import EXTENSIONS
from surgery.errors import TrainingError
from surgery.operate.behaviour import HeldInEval
from surgery.training.average import Average
from surgery.training.flat import Flat
from surgery.training.prints import fingerprint, local, share_changed
from surgery.training.strategy import World

if TYPE_CHECKING:
    from surgery.operate.objective import Step
    from surgery.recipe.train_form import Guard, Level

SAME = 8
"""So many losses in a row that are equal bit for bit are called constant."""

SETTLED = 2
"""Steps after which every trained tensor must have a gradient that is not zero."""

MOVED = 20
"""The step, counted from 1, at which everything that is trained must have moved."""

LEAST = 0.01
"""Of the numbers of a tensor that have a gradient, so many must have moved by then."""


@dataclass
class Guards:
    """Watch one training.

    Attributes:
        model: the patient's model.
        optimizer: holds what is trained.
        planned: names of what takes gradients, as planned.
        levels: guards that warn or are off; all others stop the training.
        warn: called with what a guard found that only warns.
        teachers: modules that take part and are never trained.
        world: the processes.
        average: of what is trained, where there is one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    planned: frozenset[str]
    levels: Mapping[Guard, Level] = field(default_factory=dict)
    warn: Callable[[str], object] = print
    teachers: tuple[nn.Module, ...] = ()
    world: World = field(default_factory=World)
    average: Average | None = None
    _frozen: dict[str, int] = field(default_factory=dict)
    _start: dict[str, Tensor] = field(default_factory=dict)
    _late: frozenset[str] = frozenset()
    _calm: list[tuple[str, Any]] = field(default_factory=list)
    _losses: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Check what is trained, and remember how everything is before the first step.

        Raises:
            TrainingError: the optimizer, or what takes gradients, is not as planned.
        """
        self._say("trainable", self._trainable())
        self._say("optimizer", self._optimizer())
        self._frozen = {name: fingerprint(tensor) for name, tensor in self._still()}
        self._start = {n: local(p).detach().clone() for n, p in self._free().items()}
        self._late = frozenset(_behind_zero(self.model))
        for name, module in self.model.named_modules():
            if isinstance(module, HeldInEval):
                self._calm.append((name, module))

    def before_backward(self, found: Step) -> None:
        """Check that a loss can have gradients at all.

        Raises:
            TrainingError: it is detached; nothing could follow.
        """
        if not found.loss.requires_grad:
            raise TrainingError(
                "train: guard loss", _WANTED["loss"], "a loss without a gradient",
                "does the objective detach it, or use no_grad?",
            )  # fmt: skip

    def after_backward(self, step: int, found: Step, loss: float) -> None:
        """Check loss and gradients of one step, before the optimizer moves anything.

        Args:
            step: the step, counted from 0.
            found: what the last forward gave.
            loss: the step's loss.

        Raises:
            TrainingError: they teach nothing.
        """
        self._say("held", self._held())
        self._say("loss", self._loss(found, loss))
        if step in (0, SETTLED):
            self._say("optimizer", self._optimizer())
            self._say("gradients", self._gradients(step))
            self._say("teachers", self._teachers())
        if step == 0:
            self._say("ranks", self._ranks())
        if step + 1 == MOVED:
            self._say("moved", self._moved() or self._averaged())
        if step == MOVED:
            self._start.clear()

    def check_frozen(self) -> None:
        """Check that everything else still has every bit.

        Raises:
            TrainingError: some of it has not.
        """
        changed = [n for n, tensor in self._still() if fingerprint(tensor) != self._frozen.get(n)]
        self._say("frozen", _listed("frozen tensors changed", changed, "what writes to them?"))

    def _say(self, guard: Guard, trouble: tuple[str, str] | None) -> None:
        level = self.levels.get(guard, "error")
        if trouble is None or level == "off":
            return
        found, instead = trouble
        if level == "warn":
            self.warn(f"{guard}: {found}; {instead}")
            return
        raise TrainingError(
            f"train: guard {guard}", _WANTED[guard], found,
            f"{instead}; or write `guards: {{{guard}: warn}}`",
        )  # fmt: skip

    def _free(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def _still(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                yield name, local(parameter)

    def _trainable(self) -> tuple[str, str] | None:
        free = set(self._free())
        wrong = sorted(free ^ self.planned)
        if not wrong:
            return None
        extra = [name for name in wrong if name in free]
        kind = "take gradients and were not planned" if extra else "take no gradients"
        return _listed(kind, extra or wrong, "what sets requires_grad after the surgeries?")

    def _optimizer(self) -> tuple[str, str] | None:
        held = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        free = {id(p): name for name, p in self._free().items()}
        missing = [name for key, name in free.items() if key not in held]
        strange = len(set(held) - free.keys())
        if missing or strange or len(held) != len(set(held)):
            found = f"{len(missing)} trainable tensors missing, {strange} others held"
            return found, "build the optimizer after the surgeries, and after sharding"
        strays = self.optimizer.strays() if isinstance(self.optimizer, Flat) else []
        return _listed(
            "trained tensors that the optimizer no longer moves", [free[id(p)] for p in strays],
            "what gave them other memory after the optimizer was built?",
        )  # fmt: skip

    def _held(self) -> tuple[str, str] | None:
        loose = [name for name, module in self._calm if module.training]
        return _listed("frozen modules in training mode", loose, "what sets `training` on them?")

    def _loss(self, step: Step, loss: float) -> tuple[str, str] | None:
        self._losses = [*self._losses[1 - SAME :], loss]
        if not torch.isfinite(torch.tensor(loss)):
            return f"a loss of {loss}", "lower the learning rate, or look at the batch"
        if loss == 0.0:
            return "a loss of exactly 0", "does the batch have labels, or is the loss a stand-in?"
        for bound in step.bounds:
            if bound is not None and abs(loss - bound) <= 1e-6 * max(1, abs(bound)):
                return f"a loss at its bound {bound:g}", "the outputs are saturated; look at them"
        if len(self._losses) == SAME and len(set(self._losses)) == 1:
            return f"the same loss {loss!r} {SAME} times", "do the inputs reach the loss?"
        return None

    def _gradients(self, step: int) -> tuple[str, str] | None:
        free = self._free()
        none = [name for name, p in free.items() if p.grad is None]
        if none:
            return _listed("tensors without a gradient", none, "does the forward use them?")
        zero = [n for n, p in free.items() if not bool(local(p.grad).any())]  # type: ignore[arg-type]
        if step == 0:
            zero = [name for name in zero if name not in self._late]
        return _listed("tensors whose gradient is zero", zero, "what stops it on the way?")

    def _teachers(self) -> tuple[str, str] | None:
        taught = [n for m in self.teachers for n, p in m.named_parameters() if p.grad is not None]
        return _listed("tensors of a teacher with a gradient", taught, "run it under no_grad")

    def _ranks(self) -> tuple[str, str] | None:
        """Compare whole gradients; those that are spread have no equal in another process."""
        whole = {n: p.grad for n, p in self._free().items() if not hasattr(p, "device_mesh")}
        mine = {n: fingerprint(g) for n, g in whole.items() if g is not None}
        first, *others = self.world.gathered(mine).values()
        wrong = sorted({n for other in others for n in first if other.get(n) != first[n]})
        return _listed(
            "gradients that differ between processes", wrong,
            "what runs outside the wrapped module, or differs by rank?",
        )  # fmt: skip

    def _moved(self) -> tuple[str, str] | None:
        """Find tensors of which hardly a number that has a gradient has changed."""
        still = []
        for name, p in self._free().items():
            if p.grad is None:
                continue
            pulled = local(p.grad) != 0
            if share_changed(self._start[name], local(p), pulled) < LEAST:
                still.append(name)
        return _listed(
            f"tensors that {MOVED - 1} steps have not moved", still,
            "is the learning rate too small for their dtype? Keep them in float32",
        )  # fmt: skip

    def _averaged(self) -> tuple[str, str] | None:
        """Find averages that stay where they began although what they follow moves."""
        still, free = [], self._free()
        for name, value in (self.average.values if self.average is not None else {}).items():
            start, kept = self._start[name], local(value)
            gone = local(free[name]) != start
            if share_changed(start.to(kept.dtype), kept, gone) < LEAST:
                still.append(name)
        return _listed(
            f"averages that {MOVED - 1} steps have not moved", still,
            "is `ema: {decay: ...}` so close to 1 that float32 rounds each step away?",
        )  # fmt: skip

    def shares(self) -> dict[str, float]:
        """Give the share of numbers that changed since the start, by the optimizer's group."""
        names = {id(p): name for name, p in self._free().items()}
        found = {}
        for group in self.optimizer.param_groups:
            pairs = [(self._start[names[id(p)]], local(p)) for p in group["params"]]
            count = sum(old.numel() for old, _ in pairs)
            changed = sum(share_changed(old, new) * old.numel() for old, new in pairs)
            found[str(group["name"])] = changed / max(1, count)
        return found


_WANTED: dict[Guard, str] = {
    "trainable": "gradients for just what the plan says",
    "optimizer": "an optimizer of just what takes gradients",
    "frozen": "frozen tensors with every bit they had",
    "held": "frozen modules in eval mode",
    "gradients": "a gradient for everything that is trained",
    "teachers": "teachers without gradients",
    "moved": "tensors that training moves",
    "loss": "a loss that can teach",
    "ranks": "the same gradients in every process",
}


def _listed(what: str, names: Iterable[str], instead: str) -> tuple[str, str] | None:
    found = list(names)
    if not found:
        return None
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{len(found)} {what}: {', '.join(found[:3])}{more}", instead


def _behind_zero(model: nn.Module) -> Iterator[str]:
    """Give tensors whose gradient is zero as long as another of their extension is zero.

    A product of two factors passes nothing to one while the other is zero: LoRA's A, whose B
    begins at zero.
    """
    for path, module in model.named_modules():
        for extend in module.__dict__.get(EXTENSIONS, {}).values():
            table = {n: p for n, p in module._parameters.items() if n in extend.tensors}
            zero = {n for n, p in table.items() if p is not None and not bool(local(p).any())}
            if zero:
                yield from (f"{path}.{name}" if path else name for name in table.keys() - zero)
