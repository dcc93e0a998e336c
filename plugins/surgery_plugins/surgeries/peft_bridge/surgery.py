"""The surgery ``peft``: any other method of PEFT on selected modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, JsonValue

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Extend, Init, NewTensor
from surgery.operate.surgery import Surgery

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from surgery.operate.behaviour import Behaviour
    from surgery.operate.patient import Patient
    from surgery_plugins.surgeries.peft_bridge.layers import Blueprint

_HALF = {"float16", "bfloat16"}


class Peft(Surgery):
    """Place layers of PEFT around modules: IA3, LoHa, LoKr, OFT, BOFT, VeRA and others.

    The base keeps its names and its bits; PEFT's own code builds the layers and runs them.
    """

    name: ClassVar[str] = "peft"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {
            "at": {"role": ["attention.q", "attention.v"]},
            "with": {"method": "loha", "options": {"r": 2, "alpha": 4}},
        },
    )

    method: str = Field(description="PEFT's name of the method, such as 'ia3' or 'loha'.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="The method's own options, as PEFT's configuration of it has them.",
    )
    adapter: str = Field(
        default="default", pattern=r"^[a-z][a-z0-9]*$", description="Name of the adapter."
    )

    def refuse(self, site: Site) -> str | None:
        """Refuse what has no forward that PEFT's layer could stand around."""
        if site.part is not None:
            return f"{site.part} is only some rows, and PEFT's layers change whole modules"
        if site.is_parameter or site.parameter is None:
            return "it is no module with a weight, around which PEFT has layers"
        if site.direct:
            return "another module reads its weight without calling it, so a layer would do nothing"
        return None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give one extension for each site; what PEFT shares between layers stays shared."""
        from surgery_plugins.surgeries.peft_bridge.layers import Blueprint, build, stand_in

        known = dict(patient.model.named_modules(remove_duplicate=False))
        modules = {site.path: known[site.path] for site in sites}
        for site in sites:
            _check_plain(site.path, modules[site.path])
            _check_called(site, known)
        blueprint = Blueprint(
            self.method, self.options, {path: stand_in(one) for path, one in modules.items()}
        )
        layers = build(blueprint)
        placing = _Placing(blueprint, self.adapter, layers)
        for path in layers:
            yield placing.extend(path)

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Say whose code it is."""
        from importlib.metadata import version

        yield f"layers of {self.method} by PEFT {version('peft')}, which must be installed to load"


class _Placing:
    """Turn layers of PEFT into extensions, first holders of shared tensors first."""

    def __init__(self, blueprint: Blueprint, adapter: str, layers: Mapping[str, nn.Module]) -> None:
        from surgery_plugins.surgeries.peft_bridge.layers import added
        from surgery_plugins.surgeries.peft_bridge.runtime import names_in

        self.blueprint, self.adapter, self.layers = blueprint, adapter, layers
        self.first = next(iter(layers))
        self.seed = f"peft_{adapter}_seed"
        self.names = {path: names_in(layer, adapter) for path, layer in layers.items()}
        held: dict[int, list[tuple[str, str]]] = {}
        for path, layer in layers.items():
            for name, tensor in added(layer):
                held.setdefault(id(tensor), []).append((path, name))
        self.home = {place: places[0] for places in held.values() for place in places}
        self.shared = {places[0] for places in held.values() if len(places) > 1}
        self.blueprints = {
            path: blueprint if self.shared else blueprint.alone(path) for path in layers
        }

    def extend(self, path: str) -> Extend:
        """Give the extension of one module."""
        from surgery_plugins.surgeries.peft_bridge.layers import added
        from surgery_plugins.surgeries.peft_bridge.runtime import Bridge, emptied

        layer, own, shares = self.layers[path], {}, {}
        if path == self.first:
            own[self.seed] = NewTensor((1,), "int64", Init(_draw), trainable=False, buffer=True)
        for name, tensor in list(added(layer)):
            home = self.home[path, name]
            if home == (path, name):
                own[self.names[path][name]] = self._tensor(path, name, tensor)
            else:
                shares[self.names[path][name]] = f"{home[0]}.{self.names[home[0]][home[1]]}"
        return Extend(
            path,
            f"peft.{self.adapter}",
            _bridged,
            Bridge(self.adapter, emptied(layer), self.names[path]),
            tensors=own,
            shares=shares,
            reads=tuple(self._base(path)),
        )

    def _tensor(self, path: str, name: str, tensor: Tensor) -> NewTensor:
        from torch import nn

        dtype = str(tensor.dtype).removeprefix("torch.")
        shared = (path, name) in self.shared
        buffer = not isinstance(tensor, nn.Parameter) and not shared
        sources = (f"{self.first}.{self.seed}", *(() if shared else self._base(path)))
        return NewTensor(
            tuple(tensor.shape),
            "float32" if dtype in _HALF else dtype,
            Derive(sources, _Built(self.blueprints[path], path, name)),
            trainable=tensor.requires_grad,
            buffer=buffer,
        )

    def _base(self, path: str) -> Iterator[str]:
        from surgery_plugins.surgeries.peft_bridge.layers import base_tensors

        return (f"{path}.{name}" for name in base_tensors(self.blueprint.modules[path]))


@dataclass(frozen=True)
class _Built:
    """Take one tensor out of the layer that PEFT builds around the weights of a module."""

    blueprint: Blueprint
    path: str
    name: str

    def __call__(self, seed: Tensor, *weights: Tensor, generator: Generator) -> Tensor:
        from surgery_plugins.surgeries.peft_bridge.layers import tensors_around

        return tensors_around(self.blueprint, int(seed), self.path, weights)[self.name]


def _draw(tensor: Tensor, generator: Generator) -> None:
    """Draw the one number of which PEFT draws all others."""
    tensor.random_(0, 2**31, generator=generator)


def _check_plain(path: str, module: nn.Module) -> None:
    """Refuse a module that others extended: PEFT's layers may read its weight past them."""
    from surgery.anatomy.extended import EXTENSIONS

    table = module.__dict__.get(EXTENSIONS, {})
    names = [name for name, one in table.items() if one.tensors or one.shares]
    if names:
        raise RefusedError(
            f"{path} (peft)", "a module without extensions", f"one with {', '.join(names)}",
            "exclude it, or put this step first",
        )  # fmt: skip


def _check_called(site: Site, modules: Mapping[str, nn.Module]) -> None:
    """Refuse a module whose weight is used otherwise than by a plain forward of its own."""
    from surgery_plugins.surgeries.lora.places import kind_of, place_of

    if kind_of(site) is not None and not place_of(site, modules).beside:
        raise RefusedError(
            f"{site.path} (peft)", "a module that is called, with torch's own forward",
            "one that others read past, or with a forward of its own",
            "exclude it: PEFT's layer would leave that out",
        )  # fmt: skip


def _bridged() -> type[Behaviour]:
    from surgery_plugins.surgeries.peft_bridge.runtime import Bridged

    return Bridged
