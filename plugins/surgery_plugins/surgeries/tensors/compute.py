"""What tensors are made of others: functions as plain data, which another process can call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Sum:
    """Add tensors of one shape, each times a factor, in float32 at least.

    Attributes:
        factors: one for each tensor.
    """

    factors: tuple[float, ...]

    def __call__(self, *old: Tensor, generator: Generator) -> Tensor:
        """Give the sum, in the wider dtype."""
        import torch

        wide = torch.promote_types(old[0].dtype, torch.float32)
        total = old[0].to(wide) * self.factors[0]
        for tensor, factor in zip(old[1:], self.factors[1:], strict=True):
            total = total + tensor.to(wide) * factor
        return total


@dataclass(frozen=True)
class Joined:
    """Put tensors behind each other along an axis.

    Attributes:
        axis: the axis.
        new: True to make the axis, False to lengthen it.
    """

    axis: int
    new: bool = False

    def __call__(self, *old: Tensor, generator: Generator) -> Tensor:
        """Give the joined tensor."""
        import torch

        return torch.stack(old, self.axis) if self.new else torch.cat(old, self.axis)


@dataclass(frozen=True)
class Part:
    """Cut a stretch out of a tensor.

    Attributes:
        axis: along which axis.
        start: first index.
        size: how many.
    """

    axis: int
    start: int
    size: int

    def __call__(self, old: Tensor, *, generator: Generator) -> Tensor:
        """Give the stretch, in memory of its own."""
        return old.narrow(self.axis, self.start, self.size).clone()


@dataclass(frozen=True)
class Permuted:
    """Put the axes of a tensor in another order.

    Attributes:
        axes: for each new axis the number of the old one.
    """

    axes: tuple[int, ...]

    def __call__(self, old: Tensor, *, generator: Generator) -> Tensor:
        """Give the permuted tensor, in memory of its own."""
        return old.permute(self.axes).clone()


@dataclass(frozen=True)
class Filled:
    """Fill a tensor with one number, or with numbers that are normal around it.

    Attributes:
        mean: the number.
        deviation: the standard deviation; 0 for the number itself.
    """

    mean: float
    deviation: float = 0.0

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        """Fill a tensor in place."""
        if self.deviation:
            tensor.normal_(self.mean, self.deviation, generator=generator)
        else:
            tensor.fill_(self.mean)
