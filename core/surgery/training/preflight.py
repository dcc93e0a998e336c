"""Preflight: one step made for real and thrown away, to see what a training will need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgery.anatomy.given_inputs import stated_inputs
from surgery.anatomy.rehearse import shapes
from surgery.checks.check import FAILED, PASSED, Check, failed, passed, skipped, warned
from surgery.errors import SurgeryError
from surgery.flow.check import Inputs, check_patient
from surgery.flow.prove import contracts
from surgery.flow.recipe import operated, output_of, plan_recipe
from surgery.operate.behaviour import HeldInEval
from surgery.training.doctors import examined
from surgery.training.need import Need, counted, needed
from surgery.training.prints import fingerprint
from surgery.training.session import Session, Telling, session_of
from surgery.training.setup import setup_of
from surgery.training.strategy import join_world, moved

if TYPE_CHECKING:
    from surgery.hooks.registry import Registry
    from surgery.operate.patient import Patient
    from surgery.recipe.recipe import Recipe

Size = tuple[int, int]
"""Height and width in pixels."""

LOADS, FORWARD, MEMORY, FROZEN = (
    "loads and freezes", "forward", "memory at the batch size", "frozen is frozen",
)  # fmt: skip
"""The four points."""


@dataclass(frozen=True)
class Preflight:
    """What a preflight found.

    Attributes:
        checks: how the four points ended; the forward may have a check for each size of images,
            and before them stands one for each doctor that found something.
        need: bytes that a step needs; None where none was made.
    """

    checks: tuple[Check, ...]
    need: Need | None = None

    @property
    def ok(self) -> bool:
        """True where no point failed."""
        return not any(check.status == FAILED for check in self.checks)


def preflight(recipe: Recipe, known: Registry, sizes: Sequence[Size] = ()) -> Preflight:
    """Load a recipe's patient, make one training step, and say whether training can begin.

    Nothing is written: no run, no checkpoint, no output. Images of other sizes are tried on meta.

    Args:
        recipe: what to train; it must have ``train`` and ``output``.
        known: what the plugins offer.
        sizes: of images to try beside the training's own, its half and its one and a half.

    Raises:
        SurgeryError: the recipe is wrong, or the patient cannot be loaded or operated on.
    """
    setup = setup_of(recipe, output_of(recipe))
    world = join_world()
    torch.manual_seed(setup.seed + world.rank)
    operation = operated(recipe, known)
    level = setup.form.guards.get("doctors", "error")
    found = examined(operation.patient, known, level)
    seen_by = tuple(check for check in found if check.status != PASSED)
    why = setup.objective.refuse(operation.patient)
    if why:
        told = f"{setup.objective.name} cannot train this patient: {why}"
        loaded = tuple(_loaded(operation.patient.model))
        return Preflight((*seen_by, *loaded, failed(FORWARD, told), *_after()))
    telling = Telling(lambda text: None, lambda numbers, steps: None, None, 1)
    session = session_of(setup, recipe, operation, world, telling)
    seen = _Seen()
    checks, need = _stepped(session, seen)
    tried = _tried(recipe, known, seen.image, sizes)
    first, forward, *others = checks
    return Preflight((*seen_by, first, forward, *tried, *others), need)


@dataclass
class _Seen:
    """What the first forward of a step was given.

    Attributes:
        batch: empty before.
    """

    batch: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, str]:
        """Shapes by name."""
        return shapes(self.batch)

    @property
    def image(self) -> Size | None:
        """Height and width of the images, where there are any."""
        images = self.batch.get("pixel_values")
        if not isinstance(images, Tensor) or images.ndim < 4:
            return None
        return int(images.shape[-2]), int(images.shape[-1])


def _stepped(session: Session, seen: _Seen) -> tuple[list[Check], Need | None]:
    """Make one step, and give the four points and what it needed."""
    loop, model = session.loop, session.model
    loop.steps, loop.judge, loop.save = 1, None, lambda best: None
    found: dict[str, Any] = {}
    loop.record = found.update
    buffers = _buffers(model)
    try:
        loop.guards.start()
    except SurgeryError as error:
        return [failed(LOADS, str(error)), skipped(FORWARD, "no step was made"), *_after()], None
    checks = list(_loaded(model))
    try:
        with _watched(loop.wrapped.module, seen), counted(model) as count:
            loop.run()
    except SurgeryError as error:
        return [*checks, failed(FORWARD, str(error)), *_after()], None
    except torch.OutOfMemoryError as error:
        told = f"{loop.order.micro} samples in one forward: {_line(error)}; lower `micro`"
        why = "the step ran out of memory"
        return [*checks, skipped(FORWARD, why), failed(MEMORY, told), skipped(FROZEN, why)], None
    need = needed(model, loop.optimizer, count, loop.wrapped.world.device)
    told = f"{_told(seen.shapes)}: loss {found['loss']:.6g}, norm of gradients {found['norm']:.3g}"
    samples = f"{loop.order.micro} samples in one forward"
    memory = failed if need.too_much else passed
    return [
        *checks, passed(FORWARD, told), memory(MEMORY, f"{samples}: {need}"),
        _frozen(session, buffers, seen),
    ], need  # fmt: skip


def _loaded(model: nn.Module) -> Iterator[Check]:
    """Say how much is trained, how much is frozen, and how much of that is held in eval mode."""
    free = [p for p in model.parameters() if p.requires_grad]
    still = [p for p in model.parameters() if not p.requires_grad]
    held = sum(isinstance(module, HeldInEval) for module in model.modules())
    yield passed(
        LOADS,
        f"{sum(p.numel() for p in free)} numbers in {len(free)} tensors are trained, "
        f"{sum(p.numel() for p in still)} in {len(still)} are frozen; {held} modules are held in "
        "eval mode",
    )


def _after() -> Iterator[Check]:
    """Leave out what needs a step."""
    yield from (skipped(name, "no step was made") for name in (MEMORY, FROZEN))


def _frozen(session: Session, buffers: Mapping[str, int], seen: _Seen) -> Check:
    """Check bits, gradients and buffers after a step, and that frozen modules draw nothing."""
    model = session.model
    try:
        session.loop.guards.check_frozen()
    except SurgeryError as error:
        return failed(FROZEN, str(error))
    taught = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    if taught:
        return failed(FROZEN, f"frozen tensors with a gradient: {', '.join(taught[:3])}")
    moving = sorted(n for n, now in _buffers(model).items() if buffers.get(n) != now)
    if moving:
        return warned(FROZEN, f"buffers that a step changes: {', '.join(moving[:3])}{_HELD}")
    if _draws(session, seen):
        return warned(FROZEN, f"frozen modules answer at random, as dropout does{_HELD}")
    return passed(FROZEN, "every bit as before the step, no gradients, equal answers twice")


_HELD = "; hold them in eval mode: `freeze` with `eval_mode: true`"


def _draws(session: Session, seen: _Seen) -> bool:
    """Tell whether frozen modules answer the same batch differently in training mode.

    What owns trained tensors is put in eval mode for it. An objective that draws by itself, which
    answers differently in eval mode too, tells nothing of the modules.
    """
    model = session.model
    modes = {module: module.training for module in model.modules()}
    try:
        for module in _trained(model):
            module.training = False
        if _answers_alike(session, seen):
            return False
        model.eval()
        return _answers_alike(session, seen)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _trained(model: nn.Module) -> Iterator[nn.Module]:
    """Give modules that own trained tensors, and all that is below one whose tensors all are."""
    for module in model.modules():
        below = [p.requires_grad for p in module.parameters()]
        if below and all(below):
            yield from module.modules()
        elif any(p.requires_grad for p in module.parameters(recurse=False)):
            yield module


def _answers_alike(session: Session, seen: _Seen) -> bool:
    wrapped = session.loop.wrapped
    with torch.no_grad():
        batch = moved(seen.batch, wrapped.world.device)
        first, second = (float(wrapped.module(batch).loss) for _ in range(2))
    return first == second


def _buffers(model: nn.Module) -> dict[str, int]:
    return {name: fingerprint(buffer) for name, buffer in model.named_buffers()}


@contextmanager
def _watched(module: nn.Module, seen: _Seen) -> Iterator[None]:
    """Keep what a module is given first."""

    def see(module: nn.Module, given: tuple[Any, ...]) -> None:
        seen.batch = seen.batch or given[0]

    hook = module.register_forward_pre_hook(see)
    try:
        yield
    finally:
        hook.remove()


def _tried(
    recipe: Recipe, known: Registry, own: Size | None, sizes: Sequence[Size]
) -> Iterator[Check]:
    """Rehearse images of other sizes on meta; that a model does not take one is a warning."""
    if own is None:
        return
    others = [*sizes, *((own[0] * n // 2, own[1] * n // 2) for n in (1, 3))]
    patient = plan_recipe(recipe, known).patient
    for size in dict.fromkeys(others):
        wrong = _wrong(patient, known, size)
        name, say = f"{FORWARD} at {size[0]} x {size[1]}", warned if wrong else passed
        yield say(name, wrong or "on meta")


def _wrong(patient: Patient, known: Registry, size: Size) -> str:
    """Say what is wrong with images of a size: a contract, or else the forward on meta."""
    patient.inputs = stated_inputs(patient.model, {}, size)
    checks = contracts(patient, known.families())
    broken = [check.detail for check in checks if check.status == FAILED]
    if broken:
        return broken[0]
    found = check_patient(patient, known.families(), Inputs({}, size))
    return next((check.detail for check in found.checks if check.status == FAILED), "")


def _told(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in found.items())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
