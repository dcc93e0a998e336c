"""What forwards showed, by parameter name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from surgery.anatomy.roles import Reading


@dataclass(frozen=True)
class Observed:
    """What one or several forwards showed.

    Attributes:
        readings: roles and rows, by parameter name.
        attention: names of the weights of each attention call: q, k, v and proj together.
        mlp: names of the weights of each MLP: up, gate and down together.
        calls: how many attention calls were observed.
        direct: names of weights that were read while their module was not running.
        notes: remarks on what stayed unclear.
        failure: why the forward broke off, or an empty text.
        complete: True where one forward of the whole model was observed.
    """

    readings: dict[str, Reading] = field(default_factory=dict)
    attention: tuple[frozenset[str], ...] = ()
    mlp: tuple[frozenset[str], ...] = ()
    calls: int = 0
    direct: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    failure: str = ""
    complete: bool = True

    def below(self, path: str) -> Observed:
        """Give the same with all names below a path."""

        def moved(names: Iterable[str]) -> frozenset[str]:
            return frozenset(f"{path}.{name}" for name in names)

        return replace(
            self,
            readings={f"{path}.{name}": reading for name, reading in self.readings.items()},
            attention=tuple(map(moved, self.attention)),
            mlp=tuple(map(moved, self.mlp)),
            direct=moved(self.direct),
            notes=(f"{path} was observed by itself", *self.notes),
            complete=False,
        )

    @staticmethod
    def joined(parts: Iterable[Observed]) -> Observed:
        """Join what several towers showed."""
        found = Observed(complete=False)
        for part in parts:
            found = Observed(
                readings={**found.readings, **part.readings},
                attention=found.attention + part.attention,
                mlp=found.mlp + part.mlp,
                calls=found.calls + part.calls,
                direct=found.direct | part.direct,
                notes=found.notes + part.notes,
                complete=False,
            )
        return found
