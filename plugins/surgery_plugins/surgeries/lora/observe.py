"""Observe what weights receive while a patient answers sample inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from surgery.errors import PatientError, RefusedError
from surgery_plugins.surgeries.lora.adapters import disabled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.operate.patient import Patient
    from surgery_plugins.surgeries.lora.places import Place

Fold: TypeAlias = "Callable[[Any, Tensor], Any]"
"""Takes inputs ``[n, inner]`` into a state."""

MASK = "attention_mask"
"""Name of the samples that say which places hold nothing."""


@dataclass(eq=False)
class _Watch:
    path: str
    fold: Fold
    state: Any = None


@dataclass(eq=False)
class Observation:
    """Collect what is to be observed, and observe it all in one pass when it is first asked for.

    Attributes:
        patient: whose forward is run; on meta while planning, when nothing is run.
    """

    patient: Patient
    _watched: dict[tuple[str, int], list[_Watch]] = field(default_factory=dict)
    _done: set[tuple[str, int]] = field(default_factory=set)

    def add(self, place: Place, file: str, batch: int, fold: Fold) -> Callable[[], Any]:
        """Ask for the inputs of a weight.

        Args:
            place: the weight.
            file: the samples.
            batch: samples of one forward.
            fold: takes the inputs of one forward into the state.

        Returns:
            What gives the last state; called once, when values are computed.

        Raises:
            RefusedError: the weight's module is not called with its inputs.
        """
        if not place.beside:
            raise RefusedError(
                f"{place.parameter} (lora)",
                "a weight whose module is called with its inputs, to observe them",
                "one that is read without that",
                "exclude it, or choose another init",
            )
        watch = _Watch(place.path, fold)
        self._watched.setdefault((file, batch), []).append(watch)
        return partial(_last, self, (file, batch), watch)

    def run(self, key: tuple[str, int]) -> None:
        """Run the forwards over one file's samples, unless that was done.

        Raises:
            PatientError: the samples are none, or the patient cannot answer them.
            RefusedError: the patient has no values.
        """
        if key in self._done:
            return
        model = self.patient.model
        watched = self._watched[key]
        _check_values(model, watched)
        for samples in _batches(Path(key[0]).expanduser(), key[1]):
            _forward(model, watched, samples, key[0])
        self._done.add(key)


def _last(observation: Observation, key: tuple[str, int], watch: _Watch) -> Any:
    observation.run(key)
    return watch.state


def _check_values(model: nn.Module, watched: list[_Watch]) -> None:
    from surgery.anatomy.extended import own_tensors

    for path, module in model.named_modules():
        own = own_tensors(module)
        for name, tensor in module.named_parameters(recurse=False):
            if tensor.is_meta and name not in own:
                raise RefusedError(
                    f"{watched[0].path} (lora)",
                    "a patient with values, whose inputs can be observed",
                    f"{path}.{name} without values",
                    "apply live (not shard by shard), and place this step after those that "
                    "change the base",
                )


def _batches(file: Path, size: int) -> Iterator[dict[str, Tensor]]:
    from surgery.checkpoint.tensors import TensorReader

    if not file.is_file():
        raise PatientError(str(file), "a safetensors file of sample inputs", "no such file")
    reader = TensorReader(file)
    lengths = {entry.shape[0] if entry.shape else 0 for entry in reader.entries.values()}
    if len(lengths) != 1 or not max(lengths):
        found = ", ".join(f"{name} {list(e.shape)}" for name, e in reader.entries.items())
        raise PatientError(
            str(file), "tensors with the same number of samples in the first axis", found
        )
    (length,) = lengths
    for start in range(0, length, size):
        stop = min(start + size, length)
        yield {name: reader.rows(name, start, stop) for name in reader.entries}


def _forward(
    model: nn.Module, watched: list[_Watch], samples: dict[str, Tensor], file: str
) -> None:
    from surgery.anatomy.inputs import real_inputs
    from surgery.checks.invariants import run

    modules = dict(model.named_modules(remove_duplicate=False))
    with ExitStack() as stack:
        stack.enter_context(disabled(model))
        for watch in watched:
            hook = partial(_see, watch, samples.get(MASK))
            handle = modules[watch.path].register_forward_pre_hook(hook)
            stack.callback(handle.remove)
        try:
            run(model, real_inputs(model, samples))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            raise PatientError(
                file, "samples that the model's forward takes", f"{type(error).__name__}: {error}"
            ) from None


def _see(watch: _Watch, mask: Tensor | None, module: nn.Module, args: tuple[Any, ...]) -> None:
    x = args[0].detach()
    if mask is not None and tuple(mask.shape) == tuple(x.shape[:-1]):
        x = x[mask.to(x.device).bool()]
    watch.state = watch.fold(watch.state, x.reshape(-1, x.shape[-1]).cpu())
