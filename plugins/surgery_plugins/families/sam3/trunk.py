"""Read the vision trunk of SAM 3: blocks, windows, and the grids of their rotary tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from surgery.errors import RefusedError

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["positions", "cos_sin", "complex"]
"""Positions that cos and sin are computed of; cos and sin; or their complex exponentials."""


@dataclass(frozen=True, eq=False)
class Block:
    """A block of the trunk that has a rotary table.

    Attributes:
        path: the block.
        window: side of its windows in patches; 0 where it attends to the whole image.
        kind: what the table holds.
        table: dotted name of the table, ``(length, ...)``.
        holder: path of the module that holds it.
        attention: that module.
    """

    path: str
    window: int
    kind: Kind
    table: str
    holder: str
    attention: Any

    @property
    def values(self) -> Tensor:
        """The table."""
        found: Tensor = self.attention._buffers[self.table.rpartition(".")[2]]
        return found

    def grid(self) -> tuple[int, int] | None:
        """Give rows and columns of the grid that the table is for; None where it does not say.

        A complex table is described by ``input_size``, columns first. Positions say it by their
        values, columns running fastest; on meta they have none, and in half precision neighbours
        may be equal, so there the configuration says it, if it speaks of as many patches.
        """
        if self.kind == "complex":
            columns, rows = self.attention.input_size
            return int(rows), int(columns)
        if self.kind == "positions" and self.values.element_size() >= 4 and not self.values.is_meta:
            columns = int((self.values[:, 1] == self.values[0, 1]).sum())
            return len(self.values) // columns, columns
        if self.kind == "positions":
            return self._stated()
        ends = [getattr(self.attention, name, None) for name in ("end_y", "end_x")]
        return None if None in ends else (int(str(ends[0])), int(str(ends[1])))

    def _stated(self) -> tuple[int, int] | None:
        """Give the grid that the configuration states, where the table has as many rows."""
        config = getattr(self.attention, "config", None)
        sides = [getattr(config, name, None) for name in ("image_size", "patch_size")]
        (width, height), (wide, high) = (
            (0, 0) if s is None else (s, s) if isinstance(s, int) else tuple(s) for s in sides
        )
        found = (height // high, width // wide) if wide and high else (0, 0)
        return found if found[0] * found[1] == len(self.values) else None


_TABLES: tuple[tuple[str, str, Kind], ...] = (
    ("", "position_ids", "positions"),
    ("rotary_emb", "rope_embeddings_cos", "cos_sin"),
    ("attn", "freqs_cis", "complex"),
)
"""Child of the block, buffer and kind: transformers from 5.11, transformers before, Meta."""


def blocks(model: nn.Module) -> Iterator[Block]:
    """Give the blocks of every trunk in a model, in module order."""
    for path, module in model.named_modules():
        window = vars(module).get("window_size")
        if isinstance(window, int):
            yield from _blocks_of(path, module, window)


def _blocks_of(path: str, module: nn.Module, window: int) -> Iterator[Block]:
    for child, leaf, kind in _TABLES:
        holder: Any = module._modules.get(child) if child else module
        table = None if holder is None else holder._buffers.get(leaf)
        if table is None or (kind == "complex" and not hasattr(holder, "_setup_rope_freqs")):
            continue
        if kind == "positions" and (table.dim() != 2 or table.shape[1] != 2):
            continue
        where = ".".join(name for name in (path, child) if name)
        yield Block(path, window, kind, f"{where}.{leaf}" if where else leaf, where, holder)


def patch_of(block: Block, model: nn.Module) -> tuple[int, int]:
    """Give height and width of a patch in pixels: the strides of the trunk's first convolution.

    Raises:
        RefusedError: nothing above the block cuts images into patches.
    """
    from torch import nn

    modules, path = dict(model.named_modules()), block.path
    while path:
        path = path.rpartition(".")[0]
        for module in modules[path].modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride:
                return module.stride[0], module.stride[1]
    raise RefusedError(block.path, "a convolution above it that cuts patches", "none")
