"""Activations, and the value of the configuration that builds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from surgery.anatomy.site import Site
from surgery.errors import RefusedError, SurgeryError, did_you_mean
from surgery.operate.edits import Edit, Place, SetConfig
from surgery_plugins.surgeries.fresh.build import build, buildable
from surgery_plugins.surgeries.fresh.settings import changed, joined, parts

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


def is_activation(site: Site) -> bool:
    """Tell whether a site is an activation without a weight, by its class."""
    return site.parameter is None and bool(set(site.types) & _names())


def place(name: str, module: nn.Module, path: str) -> Place:
    """Give the edit that puts an activation in the place of another.

    Args:
        name: as transformers names it.
        module: the one that is there.
        path: its path.
    """
    return Place(path, _made(name).train(module.training), {})


def settings(name: str, sites: Sequence[Site], patient: Patient) -> tuple[list[Edit], list[str]]:
    """Give the values of the configuration that build such activations at the sites.

    A value counts where the class builds the new activation with it at some of the sites, and
    changes no other module, and where it is read as it was written.

    Returns:
        The edits, and the sites whose activation no value builds.
    """
    left = {site.path for site in sites}
    if not buildable(patient):
        return [], sorted(left)
    edits: list[Edit] = []
    before = _classes(build(patient, patient.config))
    for key, value in _stated(patient.config):
        found = _changed(name, key, before, patient) if value != name else set()
        if found and found <= {site.path for site in sites}:
            edits.append(SetConfig(key, name))
            left -= found
    return edits, sorted(left)


def _changed(name: str, key: str, before: dict[str, Any], patient: Patient) -> set[str]:
    """Give the modules that become the new activation, all that become others among them."""
    config = changed(patient.config, {key: name})
    try:
        again = type(config).from_dict(config.to_dict())
        after = _classes(build(patient, again))
    except (SurgeryError, ValueError, TypeError):
        return set()
    if after.keys() != before.keys():
        return set()
    found = {path for path, kind in after.items() if kind is not before[path]}
    meant = all(after[path] is type(_made(name)) for path in found)
    return found if meant else {*found, ""}


def _classes(model: nn.Module) -> dict[str, type]:
    return {path: type(module) for path, module in model.named_modules()}


def _stated(config: Any) -> Iterator[tuple[str, str]]:
    """Give the values of a configuration that name activations, by dotted key."""
    from transformers.activations import ACT2FN

    for prefix, part in parts(config):
        for key, value in vars(part).items():
            if isinstance(value, str) and value in ACT2FN and not key.startswith("_"):
                yield joined(prefix, key), value


def _made(name: str) -> nn.Module:
    """Build an activation.

    Raises:
        RefusedError: transformers knows none of that name.
    """
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        raise RefusedError(
            "swap.activation", "a name that transformers knows", repr(name),
            did_you_mean(name, list(ACT2FN)),
        )  # fmt: skip
    made: nn.Module = ACT2FN[name]
    return made


def _names() -> set[str]:
    from torch.nn.modules import activation
    from transformers.activations import ACT2FN

    known: Iterable[Any] = dict.values(ACT2FN)
    ours = {(kind[0] if isinstance(kind, tuple) else kind).__name__ for kind in known}
    plain = {"MultiheadAttention", "PReLU", "Softmax", "LogSoftmax", "Softmax2d", "Softmin"}
    return (ours | set(activation.__all__)) - plain
