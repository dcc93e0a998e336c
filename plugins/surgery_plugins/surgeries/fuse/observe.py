"""See in one forward on meta which modules are given one and the same tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgery.anatomy.inputs import guesses
from surgery.anatomy.rehearse import rehearse
from surgery.anatomy.stand_in import on_meta
from surgery.errors import RefusedError

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


def given(paths: Sequence[str], patient: Patient) -> dict[str, tuple[int, ...]]:
    """Say what modules are given in one forward: equal answers for one and the same tensors.

    Args:
        paths: the modules.
        patient: its model is left as it was.

    Raises:
        RefusedError: no forward runs on meta, or a module is not called in it.
    """
    failure = "no inputs can be guessed for its forward"
    with on_meta(patient.model):
        for inputs in guesses(patient.model) if patient.inputs is None else [patient.inputs]:
            seen: dict[str, list[Tensor]] = {path: [] for path in paths}
            with _watched(seen, patient.model):
                failure = rehearse(patient.model, inputs).failure
            quiet = [path for path, tensors in seen.items() if not tensors]
            if not failure and quiet:
                failure = f"a forward that does not call {quiet[0]}"
            if not failure:
                return {path: tuple(map(id, tensors)) for path, tensors in seen.items()}
    raise RefusedError(
        f"fuse: {type(patient.model).__name__}", "a forward that shows what its modules are given",
        failure, "give `inputs:`, or fuse what a forward calls",
    )  # fmt: skip


@contextmanager
def _watched(seen: dict[str, list[Tensor]], model: nn.Module) -> Iterator[None]:
    """Take note of the tensors that modules are given; they are held, so that none is another."""
    with ExitStack() as stack:
        for path, tensors in seen.items():
            handle = model.get_submodule(path).register_forward_pre_hook(_noting(tensors))
            stack.callback(handle.remove)
        yield


def _noting(tensors: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    def note(module: nn.Module, args: Any) -> None:
        tensors.extend(one for one in args if isinstance(one, torch.Tensor))

    return note
