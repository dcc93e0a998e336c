"""The engine ``hf-trainer``: the steps are run by the Trainer of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from surgery.operate.engine import Engine, Work

if TYPE_CHECKING:
    from surgery.recipe.train_form import TrainForm


class HfTrainer(Engine):
    """Run the steps with the Trainer of transformers.

    Objective, samples, optimizer, guards, records, checkpoints and the result are those of the
    loop that comes with surgery; forward, backward and step are the Trainer's.
    """

    name: ClassVar[str] = "hf-trainer"

    def refuse(self, train: TrainForm, processes: int) -> str | None:
        """Refuse what the Trainer does otherwise than it is asked to."""
        if train.strategy == "fsdp2":
            return (
                "strategy fsdp2: asked for FSDP where there is no accelerator, the Trainer "
                "silently runs DDP, so its sharding could never be tested"
            )
        if train.precision == "float16":
            return (
                "precision float16: the Trainer keeps the scale of gradients to itself, so that "
                "a checkpoint could not hold it"
            )
        return None

    def run(self, work: Work) -> str:
        """Train to the last step, or until a step says why it ends."""
        from surgery_plugins.engines.trainer import run

        return run(work)
