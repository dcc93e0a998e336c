"""The state of a training, as safetensors and JSON: nothing in it is unpickled.

All of it is gathered to the first process, whatever the strategy: what is trained is small, and
what one process wrote any number of processes can read.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgery.checkpoint.manifest import check_manifest, write_manifest
from surgery.checkpoint.publish import publish
from surgery.checkpoint.strict import read_json
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.writer import NewEntry, write_tensors
from surgery.errors import IntegrityError
from surgery.operate.dtypes import name_of
from surgery.training.flat import Flat

TENSORS, NUMBERS = "state.safetensors", "state.json"
_FORMAT = 1


@dataclass
class Progress:
    """Where a training is.

    Attributes:
        step: steps done.
        samples: samples asked for.
        failed: samples that could not be used.
        best: the best value of the metric so far.
        best_step: after which step.
        waited: evaluations since then.
        recipe: sha256 of what decides the course of the training.
    """

    step: int = 0
    samples: int = 0
    failed: int = 0
    best: float | None = None
    best_step: int | None = None
    waited: int = 0
    recipe: str = ""


@dataclass
class State:
    """Everything that a training goes on from.

    Attributes:
        progress: where it is.
        model: what is trained, by name.
        optimizer: torch's own state of it, by name of parameter and of value.
        extra: further tensors by name: the average, a gradient scaler.
        random: state of the random generators, by rank.
    """

    progress: Progress
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Mapping[str, Tensor]]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    random: Mapping[str, Any] = field(default_factory=dict)


def save_state(folder: Path, state: State) -> None:
    """Write a state into a new folder, in one step.

    Args:
        folder: where; what stands there is replaced.
        state: what to write.
    """
    tensors = {f"model/{n}": t for n, t in state.model.items()}
    for name, values in state.optimizer.items():
        tensors |= {f"optimizer/{name}/{key}": value for key, value in values.items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in state.extra.items()}
    numbers = {"state": _FORMAT, "progress": asdict(state.progress), "random": state.random}
    with publish(folder, force=True) as new:
        write_tensors(new / TENSORS, [_entry(n, t) for n, t in tensors.items()])
        (new / NUMBERS).write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        write_manifest(new)


def read_state(folder: Path) -> State:
    """Read a state.

    Raises:
        IntegrityError: its files are damaged, or of another format.
    """
    check_manifest(folder)
    numbers = read_json(folder / NUMBERS)
    try:
        if numbers["state"] != _FORMAT:
            raise KeyError("state")
        progress = Progress(**numbers["progress"])
        generators = dict(numbers["random"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            str(folder / NUMBERS), f"the state of a training, format {_FORMAT}", repr(error)
        ) from None
    reader = TensorReader(folder / TENSORS)
    found = State(progress, {}, {}, {}, generators)
    for name in reader.entries:
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            parameter, _, key = rest.rpartition("/")
            found.optimizer.setdefault(parameter, {})[key] = reader.get(name)  # type: ignore[attr-defined]
        else:
            table: Any = found.model if kind == "model" else found.extra
            table[rest] = reader.get(name)
    return found


def _entry(name: str, tensor: Tensor) -> NewEntry:
    return NewEntry(name, name_of(tensor.dtype), tuple(tensor.shape), tensor.detach)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that is spread over processes, on the CPU; all processes must call it."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().cpu()


def trained_of(model: nn.Module) -> dict[str, Tensor]:
    """Gather what is trained, by name, a tied tensor once."""
    return {n: whole(p) for n, p in model.named_parameters() if p.requires_grad}


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> dict[str, dict[str, Tensor]]:
    """Gather an optimizer's state.

    Args:
        optimizer: the optimizer.
        names: names of parameters, by identity; others are left out.
    """
    return {
        names[id(p)]: {key: whole(value) for key, value in optimizer.state[p].items()}
        for group in optimizer.param_groups
        for p in group["params"]
        if p in optimizer.state and id(p) in names
    }


@torch.no_grad()
def restore(model: nn.Module, optimizer: torch.optim.Optimizer, state: State, where: str) -> None:
    """Give a model and its optimizer the state of another run, of any number of processes.

    Raises:
        IntegrityError: it is the state of a model that is trained otherwise.
    """
    free = {n: p for n, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(free.keys() ^ state.model.keys())
    if wrong:
        raise IntegrityError(
            where, "the state of what is trained now", f"{len(wrong)} other tensors: {wrong[0]}",
            "go on with the recipe that wrote it, or begin without --resume",
        )  # fmt: skip
    states = {}
    for name, parameter in free.items():
        parameter.copy_(_spread(state.model[name], parameter))
        states[parameter] = {
            key: _spread(value, parameter) if value.dim() else value.to(parameter.device)
            for key, value in state.optimizer.get(name, {}).items()
        }
    if isinstance(optimizer, Flat):
        optimizer.take(states)
    else:
        optimizer.state.update({p: values for p, values in states.items() if values})


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """Give a tensor the device and the spread of another."""
    value = value.to(like.device)
    if not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements)  # type: ignore[attr-defined]


def random_state(device: torch.device) -> dict[str, Any]:
    """Give the state of the random generators of this process, as JSON values."""
    version, numbers, gauss = random.getstate()
    found: dict[str, Any] = {
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "python": [version, list(numbers), gauss],
    }
    if device.type == "cuda":
        found["cuda"] = bytes(torch.cuda.get_rng_state(device).tolist()).hex()
    return found


def restore_random(found: Mapping[str, Any], device: torch.device) -> None:
    """Give the random generators of this process a state."""
    torch.set_rng_state(_bytes(found["torch"]))
    version, numbers, gauss = found["python"]
    random.setstate((version, tuple(numbers), gauss))
    if device.type == "cuda" and "cuda" in found:
        torch.cuda.set_rng_state(_bytes(found["cuda"]), device)


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
