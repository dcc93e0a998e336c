"""The tables of a model whose rows are tokens: input, output, biases; and who states their size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.operate.patient import Patient


@dataclass(frozen=True)
class Table:
    """A tensor with an entry for each token.

    Attributes:
        names: all dotted names of the tensor, the first in module order first.
        shape: its shape.
        dtype: its dtype by torch's name.
        kind: ``input``, ``output`` or ``bias``.
        axis: the axis that tokens number.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    kind: str
    axis: int = 0

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def rows(self) -> int:
        """Number of tokens that it has entries for."""
        return self.shape[self.axis]


def tables_of(patient: Patient, named: Sequence[str] = ()) -> list[Table]:
    """Find the tables with a row for each token; a tied head is the input table itself.

    Args:
        patient: whose model has them.
        named: dotted names of the weights, where the model does not say which they are.

    Raises:
        RefusedError: none is found.
    """
    places = _places(patient.model)
    found = _named(patient.model, named) if named else list(_own(patient.model))
    if not found:
        raise RefusedError(
            "tokens",
            "a model that says which its input embedding is (get_input_embeddings)",
            type(patient.model).__name__,
            "name the weights with a row for each token: `tables: [embed.weight, head.weight]`",
        )
    tables: dict[int, Table] = {}
    for tensor, kind, axis in found:
        dtype = str(tensor.dtype).removeprefix("torch.")
        entry = Table(tuple(places[id(tensor)]), tuple(tensor.shape), dtype, kind, axis)
        tables.setdefault(id(tensor), entry)
    return list(tables.values())


def heights(tables: Sequence[Table]) -> str:
    """Give the tables' heights where they differ, else an empty text."""
    if len({table.rows for table in tables}) == 1:
        return ""
    return ", ".join(f"{table.name} {table.rows}" for table in tables)


def configs_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give a configuration and those inside it: dotted prefix with its dot, and the object."""
    if config is None:
        return
    yield prefix, config
    for name in getattr(config, "sub_configs", None) or ():
        yield from configs_of(getattr(config, name, None), f"{prefix}{name}.")


def stated_sizes(patient: Patient) -> Iterator[tuple[str, int]]:
    """Give every ``vocab_size`` of the configuration: dotted key and value."""
    seen: set[int] = set()
    for prefix, config in configs_of(patient.config):
        size = getattr(config, "vocab_size", None)
        if isinstance(size, int) and id(config) not in seen:
            seen.add(id(config))
            yield f"{prefix}vocab_size", size


def size_attributes(model: nn.Module, rows: int) -> list[str]:
    """Give the dotted paths of modules' attributes that state the vocabulary's size."""
    return [
        f"{path}.vocab_size" if path else "vocab_size"
        for path, module in model.named_modules()
        if vars(module).get("vocab_size") == rows
    ]


def others_like(model: nn.Module, tables: Sequence[Table]) -> list[str]:
    """Give further lookup tables that have as many rows and are tied to none of the known."""
    known = {name for table in tables for name in table.names}
    rows = tables[0].rows
    return [
        f"{path}.weight"
        for path, module in model.named_modules()
        if getattr(module, "num_embeddings", None) == rows and f"{path}.weight" not in known
    ]


def _own(model: Any) -> Iterator[tuple[Tensor, str, int]]:
    """Give the tables that a model of transformers names: tensor, kind and axis."""
    source = _embeddings(model, "get_input_embeddings")
    if source is None:
        return
    yield source._parameters["weight"], "input", 0
    head = _embeddings(model, "get_output_embeddings")
    if head is not None:
        yield head._parameters["weight"], "output", 0
        if head._parameters.get("bias") is not None:
            yield head._parameters["bias"], "bias", 0
    extra = model._buffers.get("final_logits_bias")
    if extra is not None:
        yield extra, "bias", 1


def _embeddings(model: Any, getter: str) -> Any:
    try:
        module = getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(module, "_parameters", {}).get("weight")
    return module if weight is not None and weight.dim() == 2 else None


def _named(model: nn.Module, names: Sequence[str]) -> list[tuple[Tensor, str, int]]:
    found: list[tuple[Tensor, str, int]] = []
    for name in names:
        path, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise RefusedError("tokens: tables", "names of weights", name) from None
        tensor = module._parameters.get(leaf)
        if tensor is None:
            raise RefusedError("tokens: tables", "names of weights", name)
        looks_up = hasattr(module, "num_embeddings")
        kind = "bias" if tensor.dim() == 1 else "input" if looks_up else "output"
        found.append((tensor, kind, 0))
    return found


def _places(model: nn.Module) -> dict[int, list[str]]:
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for table in (module._parameters, module._buffers):
            for leaf, tensor in table.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append(f"{path}.{leaf}" if path else leaf)
    return places
