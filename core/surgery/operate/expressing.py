"""The contract of a surgery that can express how weights changed, such as low-rank adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from surgery.anatomy.site import Site
from surgery.checkpoint.pair import Pair

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.patient import Patient
    from surgery.operate.surgery import Surgery


Watch: TypeAlias = "Callable[[int, int], object]"
"""Called with how many changes are expressed, and how many there are."""


@dataclass(frozen=True)
class Limits:
    """How closely changes are to be expressed; one of both is given.

    Attributes:
        rank: the rank of every weight's change.
        energy: the share of the squared Frobenius norm of every weight's change to hold.
    """

    rank: int | None = None
    energy: float | None = None


@dataclass(frozen=True)
class Fit:
    """How closely one weight's change is expressed.

    Attributes:
        path: the site's path, with the role of its rows where they are a part.
        shape: shape of the weight.
        rank: the rank of what expresses it.
        error: Frobenius norm of what is missed, over that of the change.
        norm: Frobenius norm of the change.
    """

    path: str
    shape: tuple[int, ...]
    rank: int
    error: float
    norm: float

    def to_json(self) -> dict[str, Any]:
        """Give the fit as JSON values."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            "rank": self.rank,
            "relative_error": self.error,
            "norm": self.norm,
        }


@dataclass(frozen=True)
class Expressed:
    """A surgery that makes the changes, and the values of its tensors.

    Attributes:
        surgery: the surgery, to be done at the sites of the changes, in their order.
        values: the values of the tensors that it adds, by name.
        fits: how closely each change is expressed, in the order of the sites.
    """

    surgery: Surgery
    values: Mapping[str, Tensor]
    fits: tuple[Fit, ...]


@runtime_checkable
class Expressing(Protocol):
    """A class of surgeries that can express changes."""

    @classmethod
    def express(
        cls,
        changes: Sequence[tuple[Site, Pair]],
        patient: Patient,
        limits: Limits,
        watch: Watch,
    ) -> Expressed:
        """Express changes of weights in tensors of the surgery's own.

        Args:
            changes: the sites, none of which the surgery with its default options refuses, and
                the weight of each before and after, of one shape.
            patient: the base's structure; it may be on meta.
            limits: how closely.
            watch: to be called after each change.

        Raises:
            RefusedError: a change cannot be expressed.
        """
        ...
