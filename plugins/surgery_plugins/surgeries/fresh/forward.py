"""Whether a class's forward takes images of a size, tried on meta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.errors import RefusedError
from surgery_plugins.surgeries.fresh.build import build

if TYPE_CHECKING:
    from torch import nn

    from surgery_plugins.surgeries.fresh.follow import Change


def check_forward(made: Change, name: str) -> None:
    """Check that a model runs after a change of its configuration, if it runs before it.

    Some classes build tables for any image and run square ones alone.

    Args:
        made: the change.
        name: the surgery, for errors.

    Raises:
        RefusedError: the model of the present configuration runs, that of the changed one not.
    """
    failure = _failure(made.model)
    if failure and not _failure(build(made.patient, made.patient.config)):
        kind = type(made.model).__name__
        raise RefusedError(name, f"a size that the forward of {kind} takes", failure)


def _failure(model: nn.Module) -> str:
    """Give why no forward runs on meta; an empty text where one does."""
    from surgery.anatomy.inputs import guesses
    from surgery.anatomy.observe import observe
    from surgery.anatomy.stand_in import twin

    copy, failure = twin(model), "no inputs can be guessed"
    for guess in guesses(copy):
        failure = observe(copy, guess).failure
        if not failure:
            return ""
    return failure
