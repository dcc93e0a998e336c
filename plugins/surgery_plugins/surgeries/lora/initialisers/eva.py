"""EVA: adapters begin with the directions in which their inputs vary most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgery.operate.edits import Init
from surgery.operate.initialiser import Begin, Factors, Initialiser
from surgery_plugins.surgeries.lora.branch import LINEAR
from surgery_plugins.surgeries.lora.initialisers.decomposed import one_thread
from surgery_plugins.surgeries.lora.initialisers.drawn import ZERO
from surgery_plugins.surgeries.lora.places import fan_in, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from surgery.anatomy.site import Site


class Eva(Initialiser):
    """Begin A with the principal components of the weight's inputs, B zero.

    EVA, arXiv 2410.07170, by incremental decomposition over forwards of sample inputs, as in PEFT
    with ``rho`` 1: every adapter keeps the rank that the plan states. Each row of A has its
    largest number positive. Places where an ``attention_mask`` among the samples is 0 are left
    out.
    """

    name: ClassVar[str] = "eva"

    data: str = Field(
        min_length=1,
        description="A safetensors file of sample inputs: its tensors are keyword arguments of "
        "the model's forward, their first axis counts samples.",
    )
    batch: int = Field(default=8, gt=0, description="Samples of one forward.")
    whiten: bool = Field(
        default=False, description="Divide each component by the root of its singular value."
    )

    def refuse(self, site: Site, rank: int) -> str | None:
        """Refuse what is no matrix that its module multiplies its input with."""
        if kind_of(site) != LINEAR or site.direct:
            return "its inputs cannot be observed as those of a linear layer; choose another init"
        if rank > fan_in(site):
            return f"its {fan_in(site)} inputs have no {rank} components; choose a smaller rank"
        return None

    def begin(self, factors: Factors) -> Begin:
        """Ask for the inputs, and fill A with their components when values are computed."""
        state = factors.observe(self.data, self.batch, Folding(factors.each))
        return Begin(Init(_filling(factors, state, self.whiten), live=True), ZERO)


def _filling(
    factors: Factors, state: Callable[[], Components | None], whiten: bool
) -> Callable[[Tensor, Generator], None]:
    def fill(tensor: Tensor, generator: Generator) -> None:
        found = state()
        rows = None if found is None else found.directions
        if found is None or rows is None or len(rows) < factors.each:
            raise _too_few(factors, found)
        if whiten:
            rows = rows / found.values.sqrt().unsqueeze(1)
        tensor.copy_(rows)

    return fill


def _too_few(factors: Factors, found: Components | None) -> Exception:
    from surgery.errors import RefusedError

    return RefusedError(
        f"{factors.weight} (eva)",
        f"at least {factors.each} inputs that differ",
        f"{found.seen if found else 0} inputs, {len(found.directions) if found else 0} components",
        "give more samples, or choose a smaller rank",
    )


@dataclass(frozen=True)
class Components:
    """The principal components of what was seen so far.

    Attributes:
        directions: ``[components, inner]``, orthonormal, by falling singular value.
        values: the singular values, ``[components]``.
        mean: mean of the inputs, ``[inner]``.
        seen: how many inputs were seen.
    """

    directions: Tensor
    values: Tensor
    mean: Tensor
    seen: int


@dataclass(frozen=True)
class Folding:
    """Take more inputs into their principal components (Ross et al. 2008, section 3).

    Attributes:
        count: how many components are kept.
    """

    count: int

    def __call__(self, state: Components | None, inputs: Tensor) -> Components | None:
        """Give the components of the inputs before and of these.

        Args:
            state: the components before; None at first.
            inputs: ``[n, inner]``.
        """
        if not len(inputs):
            return state
        inputs = inputs.float()
        mean, seen = inputs.mean(0), len(inputs)
        if state is None:
            return self._kept(inputs - mean, mean, seen)
        return self._joined(state, inputs - mean, mean, seen)

    def _joined(self, state: Components, centred: Tensor, mean: Tensor, new: int) -> Components:
        import torch

        seen = state.seen + new
        shift = (state.seen / seen * new) ** 0.5 * (state.mean - mean)
        rows = [state.values.unsqueeze(1) * state.directions, centred, shift.unsqueeze(0)]
        return self._kept(torch.cat(rows), (state.mean * state.seen + mean * new) / seen, seen)

    def _kept(self, rows: Tensor, mean: Tensor, seen: int) -> Components:
        import torch

        with one_thread():
            _, values, right = torch.linalg.svd(rows, full_matrices=False)
        kept = values[: self.count] > values[0] * torch.finfo(values.dtype).eps * max(rows.shape)
        right, values = right[: self.count][kept], values[: self.count][kept]
        signs: Any = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()
        return Components(right * signs, values, mean, seen)
