"""The Trainer of transformers over a training that surgery has made ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from surgery.errors import MissingExtraError
from surgery.operate.engine import Turn, Work


def run(work: Work) -> str:
    """Train to the last step, or until a step says why it ends.

    Args:
        work: the training.

    Raises:
        TrainingError: a guard stopped the training.
        MissingExtraError: transformers or accelerate is not installed.
    """
    if work.first >= work.steps:
        return "done"
    course = _Course(work)
    with TemporaryDirectory(prefix="surgery-trainer-") as folder:
        _trainer(course, folder).train()
    return course.ended


@dataclass(frozen=True)
class _Part:
    """One forward: its turn, and its place in it; None where the turn has fewer parts."""

    turn: Turn
    place: int | None


class _Course:
    """Follow the turns of a training; the data loader of the Trainer.

    Args:
        work: the training.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ended = "done"
        self.turn: Turn | None = None

    def __len__(self) -> int:
        """Give the number of forwards."""
        return (self.work.steps - self.work.first) * self.work.forwards

    def __iter__(self) -> Iterator[dict[str, _Part]]:
        """Give the parts of one turn after another, as many for each of them."""
        for turn in self.work.turns():
            self.turn = turn
            for place in range(self.work.forwards):
                yield {"part": _Part(turn, place if place < len(turn.parts) else None)}

    def loss(self, part: _Part, device: torch.device) -> Tensor:
        """Run one part; a part that is not there has a loss that teaches nothing."""
        if part.place is None:
            return torch.zeros((), device=device, requires_grad=True)
        return self.work.forward(part.turn, part.place)

    def before_step(self) -> None:
        """Check and clip gradients."""
        assert self.turn is not None
        self.work.before_step(self.turn)

    def after_step(self) -> bool:
        """Record and save; True where the training ends."""
        assert self.turn is not None
        ended = self.work.after_step(self.turn)
        self.ended = ended or self.ended
        return bool(ended)


def _trainer(course: _Course, folder: str) -> Any:
    try:
        from transformers import Trainer
    except ModuleNotFoundError:
        raise MissingExtraError("train.engine", "transformers", "hf") from None
    if find_spec("accelerate") is None:
        raise MissingExtraError("train.engine", "accelerate", "trackers")

    class Own(Trainer):  # type: ignore[misc]
        """Take losses and samples from the training; leave the model as its strategy has it."""

        loss_is_scaled_for_ga = True

        def get_train_dataloader(self) -> Any:
            return course

        def compute_loss(self, model: nn.Module, inputs: dict[str, _Part], **_: Any) -> Tensor:
            return course.loss(inputs["part"], self.args.device)

        def _wrap_model(self, model: nn.Module, *_: Any, **__: Any) -> nn.Module:
            return course.work.module

    optimizer = course.work.optimizer
    still = LambdaLR(optimizer, lambda step: 1.0)
    return Own(
        model=nn.Module(),  # the Trainer would move the tensors of one that has any
        args=_arguments(course, folder),
        train_dataset=course,
        optimizers=(optimizer, still),
        callbacks=[_following(course)],
    )


def _arguments(course: _Course, folder: str) -> Any:
    """Give arguments that leave records, checkpoints, clipping and rates to the training."""
    from transformers import TrainingArguments

    work = course.work
    device = next(work.module.parameters()).device
    return TrainingArguments(
        output_dir=folder,
        max_steps=work.steps - work.first,
        gradient_accumulation_steps=work.forwards,
        max_grad_norm=0.0,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        seed=torch.initial_seed() % 2**32,
    )


def _following(course: _Course) -> Any:
    """Give the callback that calls the guards, and that ends the training."""
    from transformers import TrainerCallback

    class Following(TrainerCallback):  # type: ignore[misc]
        """Follow the steps of the Trainer."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            course.before_step()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= course.after_step()

    return Following()
