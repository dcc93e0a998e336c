"""What makes attached modules run: the model calls them after its own forward."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from surgery_plugins.surgeries.attach.outputs import picked, snapshot

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.operate.behaviour import Behaviour

_SEEN = "_surgery_attach_seen"
_MADE = "_surgery_attach_made"


@dataclass(frozen=True)
class Feed:
    """Say what feeds one attached module.

    Attributes:
        module: its name in the model.
        site: path of the module whose output feeds it; the model itself if empty.
        output: which of the outputs, or None for the only one.
        detach: True where no gradient goes from it into the model.
    """

    module: str
    site: str
    output: str | None
    detach: bool


class Last:
    """Hold what a forward made; a copy of it is empty, so that models can be copied."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[Last], tuple[()]]:
        return Last, ()


def attached(model: nn.Module) -> Mapping[str, Tensor]:
    """Give what the modules beside a model made in its last forward, by their names.

    One whose site did not run in that forward is not there.

    Args:
        model: the model that was called, wrapped in nothing.
    """
    last = model.__dict__.get(_MADE)
    return {} if last is None or last.value is None else dict(last.value)


@cache
def tapped() -> type[Behaviour]:
    """Give the behaviour of a module whose output feeds others."""
    from surgery.operate.behaviour import Behaviour

    class Tapped(Behaviour):
        """Leave the last output where the model finds it, while the model asks for it."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            out = super().__call__(*args, **kwargs)  # type: ignore[misc]
            if _SEEN in self.__dict__:
                self.__dict__[_SEEN].value = snapshot(out)
            return out

    return Tapped


@cache
def running() -> type[Behaviour]:
    """Give the behaviour of a model that has modules beside it."""
    from surgery.operate.behaviour import Behaviour

    class Attached(Behaviour):
        """Run the modules after the model's own forward, whose outputs stay what they are."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            feeds = [feed for _, feed in self.extensions(Feed)]
            taps = {feed.site: _below(self, feed.site) for feed in feeds if feed.site}
            for module in taps.values():
                module.__dict__[_SEEN] = Last()
            try:
                out = super().__call__(*args, **kwargs)  # type: ignore[misc]
                made = _run(self, feeds, taps, out)
            finally:
                for module in taps.values():
                    module.__dict__.pop(_SEEN, None)
            self.__dict__[_MADE] = Last(made)
            return _with_named(out, made)

    return Attached


@cache
def following() -> type[Behaviour]:
    """Give the behaviour of an attached module: it trains in a model that is held in eval mode."""
    from surgery.operate.behaviour import Behaviour, HeldInEval

    class Following(Behaviour):
        """Follow the mode that was asked for, but for what is held in eval mode itself."""

        def follow_mode(self, mode: bool) -> None:
            for module in self.modules():  # type: ignore[attr-defined]
                if not isinstance(module, HeldInEval):
                    module.training = mode

    return Following


def _below(model: Any, path: str) -> nn.Module:
    for name in path.split("."):
        model = model._modules[name]
    found: nn.Module = model
    return found


def _run(
    model: Any, feeds: list[Feed], taps: Mapping[str, nn.Module], out: Any
) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for feed in feeds:
        value = taps[feed.site].__dict__[_SEEN].value if feed.site else out
        if value is None:
            continue
        module = model._modules[feed.module]
        features = picked(value, feed.output)
        features = features.detach() if feed.detach else features
        made[feed.module] = module(_as_taken(features, module))
    return made


def _as_taken(features: Tensor, module: nn.Module) -> Tensor:
    """Give features in the dtype of the module's parameters."""
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    return features if first is None else features.to(first.dtype)


def _with_named(out: Any, made: Mapping[str, Tensor]) -> Any:
    """Add what was made to an output with names; what has a name there already is not added."""
    new = {name: value for name, value in made.items() if isinstance(out, Mapping)}
    new = {name: value for name, value in new.items() if name not in out}
    if type(out) is dict:
        return {**out, **new}
    if isinstance(out, MutableMapping):
        for name, value in new.items():
            out[name] = value
    return out
