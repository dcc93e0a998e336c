"""Prove on meta that a layer gives its input back when some of its tensors are zero."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surgery.anatomy.fold import tensors_in
from surgery.anatomy.inputs import guesses
from surgery.anatomy.pretend import pretend
from surgery.anatomy.stand_in import on_meta
from surgery.anatomy.walk import walk
from surgery.errors import RefusedError

if TYPE_CHECKING:
    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient

WRITERS = frozenset({"attention.proj", "mlp.down"})
"""Roles of the weights whose products are added to the residual stream."""

ZERO, INPUT = "zero", "input"

_PRODUCTS = frozenset({
    "mul", "__mul__", "__rmul__", "__imul__", "mul_", "matmul", "__matmul__", "mm", "bmm",
    "einsum", "_grouped_mm", "grouped_mm",
})  # fmt: skip
_WITH_BIAS = frozenset({"linear", "conv1d", "conv2d"})
_SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__", "add_"})
_FORMS = frozenset({
    "view", "reshape", "flatten", "unflatten", "contiguous", "clone", "to", "float", "type_as",
    "type", "squeeze", "unsqueeze", "dropout", "detach", "view_as", "reshape_as",
})  # fmt: skip
_FIXED = _FORMS | {
    "transpose", "permute", "__getitem__", "index_select", "gather", "chunk", "split", "neg",
    "mean", "sum", "square", "tanh", "relu", "silu", "gelu", "div", "__truediv__", "rms_norm",
    "half", "bfloat16", "expand", "repeat", "flip", "unbind", "t", "T", "mT",
}  # fmt: skip
_MADE = frozenset({"zeros", "zeros_like", "new_zeros"})
_JOINED = frozenset({"cat", "stack", "index_add_", "index_add", "scatter_add"})


def written_to_stream(sites: Sequence[Site], patient: Patient) -> list[str]:
    """Give the tensors by which layers write to the residual stream, relative to the layer.

    They are the weights of attention outputs and MLP outputs, and their biases.

    Raises:
        RefusedError: a layer has none that was observed.
    """
    found: dict[str, None] = {}
    parts = [s for s in walk(patient.model, patient.inputs) if s.roles & WRITERS]
    for layer in sites:
        own = [s for s in parts if s.path.startswith(f"{layer.path}.")]
        if not own:
            raise RefusedError(
                f"layers.zero: {layer.path}", "an observed attention or MLP output", "none",
                "name the tensors that are zero in an identity under `zero:`",
            )  # fmt: skip
        for site in own:
            for name in _of_site(site, patient.model):
                found[name.removeprefix(f"{layer.path}.")] = None
    return list(found)


def _of_site(site: Site, model: nn.Module) -> Iterator[str]:
    if site.is_parameter:
        yield site.path
        bias = f"{site.path}_bias"
        parent, _, leaf = bias.rpartition(".")
        if leaf in dict(model.get_submodule(parent).named_parameters(recurse=False)):
            yield bias
    else:
        module = model.get_submodule(site.path)
        yield from (f"{site.path}.{leaf}" for leaf, _ in module.named_parameters(recurse=False))


def prove_silent(sites: Sequence[Site], patient: Patient, zero: Collection[str]) -> None:
    """Prove that the layers give their input back when some of their tensors are zero.

    One forward on meta is followed by what is known to be zero and what is known to be the input.

    Raises:
        RefusedError: it cannot be proved.
    """
    failure = "no inputs can be guessed for its forward"
    with on_meta(patient.model):
        tries = guesses(patient.model) if patient.inputs is None else [patient.inputs]
        for inputs in tries:
            quiet, failure = _watched(sites, patient.model, dict(inputs), zero)
            if not failure:
                break
    loud = [] if failure else [site.path for site in sites if site.path not in quiet]
    if failure or loud:
        raise RefusedError(
            f"layers.insert: {loud[0] if loud else patient.model.__class__.__name__}",
            f"a layer that gives its input back when {', '.join(sorted(zero))} are zero",
            failure or "one that does more than add to its input",
            "a block that normalises after adding has no identity of this kind",
        )


def _watched(
    sites: Sequence[Site], model: nn.Module, inputs: dict[str, Any], zero: Collection[str]
) -> tuple[set[str], str]:
    """Run one forward and give the layers that are known to give their input, or a failure."""
    quiet: set[str] = set()
    inputs = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in inputs.items()}
    try:
        with ExitStack() as stack:
            for site in sites:
                layer = model.get_submodule(site.path)
                stack.enter_context(_following(layer, zero, _noting(quiet, site.path)))
            stack.enter_context(torch.no_grad())
            stack.enter_context(_Pretending())
            model(**inputs)
    except Exception as error:
        return quiet, " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return quiet, ""


def _noting(quiet: set[str], path: str) -> Callable[[], None]:
    return lambda: quiet.add(path)


@contextmanager
def _following(
    layer: nn.Module, zero: Collection[str], silent: Callable[[], None]
) -> Iterator[None]:
    """Follow what a layer computes while it runs."""
    forward = layer.forward
    held = dict(vars(layer))

    def followed(*args: Any, **kwargs: Any) -> Any:
        entered = next(iter(tensors_in((args, kwargs))))
        mode = _Facts(entered, [p for name, p in layer.named_parameters() if name in zero])
        with mode:
            output = forward(*args, **kwargs)
        result = next(iter(tensors_in(output)))
        if result.shape == entered.shape and mode.of(result) == INPUT:
            silent()
        return output

    layer.__dict__["forward"] = followed
    try:
        yield
    finally:
        layer.__dict__.clear()
        layer.__dict__.update(held)


class _Pretending(TorchFunctionMode):
    """Answer what meta tensors cannot."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, its answer invented where only values could give one."""
        return pretend(func, getattr(func, "__name__", ""), args, kwargs or {})


def _name_of(func: Any) -> str:
    """Give the name of a function, or of the property that is read, such as ``mT``."""
    name: str = getattr(func, "__name__", "")
    return str(getattr(func.__self__, "__name__", name)) if name == "__get__" else name


class _Facts(TorchFunctionMode):
    """Carry what is known of tensors through what is computed of them.

    Args:
        entered: the layer's input.
        zeros: the parameters that are zero.
    """

    def __init__(self, entered: Tensor, zeros: Iterable[Tensor]) -> None:
        super().__init__()
        self.entered = entered
        self.facts: dict[int, tuple[Tensor, str]] = {}
        self.know(entered, INPUT)
        for tensor in zeros:
            self.know(tensor, ZERO)

    def know(self, tensor: Tensor, fact: str) -> None:
        """Take note of a fact; the tensor is held, so that its identity stays its own."""
        self.facts[id(tensor)] = (tensor, fact)

    def of(self, value: Any) -> str | None:
        """Give what is known of a value."""
        return self.facts[id(value)][1] if id(value) in self.facts else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and conclude what is known of its result."""
        kwargs = kwargs or {}
        name = _name_of(func)
        given = [t for t in tensors_in((args, kwargs)) if t.is_floating_point()]
        fact = self._conclude(name, args, kwargs, given)
        result = func(*args, **kwargs)
        changed = args[:1] if name == "__setitem__" else ()
        for tensor in tensors_in((result, changed)):
            self.facts.pop(id(tensor), None)
            if fact and not (fact == INPUT and _differs(tensor, self.entered)):
                self.know(tensor, fact)
        return result

    def _conclude(self, name: str, args: Any, kwargs: Any, given: list[Tensor]) -> str | None:
        facts = [self.of(tensor) for tensor in given]
        if name in _SUMS:
            return _sum(facts, len(given) == 2)
        if name in _FORMS:
            return facts[0] if facts else None
        if name in _WITH_BIAS:
            bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
            nothing = bias is None or self.of(bias) == ZERO
            return ZERO if ZERO in facts[:2] and nothing else None
        return ZERO if _gives_zero(name, facts) else None


def _gives_zero(name: str, facts: list[str | None]) -> bool:
    """Conclude for functions whose result can only be known to be zero."""
    if name in _PRODUCTS:
        return ZERO in facts
    if name == "addmm":
        return facts[:1] == [ZERO] and ZERO in facts[1:]
    if name in _JOINED:
        return bool(facts) and set(facts) == {ZERO}
    return name in _MADE or (name in _FIXED and facts[:1] == [ZERO])


def _sum(facts: list[str | None], both: bool) -> str | None:
    """Conclude for a sum of two tensors: adding zero changes nothing."""
    if not both or ZERO not in facts:
        return None
    return next((fact for fact in facts if fact != ZERO), ZERO)


def _differs(tensor: Tensor, entered: Tensor) -> bool:
    """Tell whether a tensor cannot hold all numbers of the input."""
    fewer = torch.promote_types(tensor.dtype, entered.dtype) != tensor.dtype
    return fewer or tensor.numel() != entered.numel()
