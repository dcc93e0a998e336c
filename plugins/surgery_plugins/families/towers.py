"""Read vision towers and connectors off their modules: widths, tables of positions, patches."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery_plugins.families.prompts import Size, below, pair

if TYPE_CHECKING:
    from torch import Tensor, nn

_TABLES = ("position_embedding.weight", "position_embeddings", "position_embedding", "pos_embed")
_CLASS = ("class_embedding", "cls_token")


@dataclass(frozen=True, eq=False)
class Tower:
    """A vision tower.

    Attributes:
        path: where it is.
        table: dotted name of its table of positions.
        rows: how many positions the table has.
        before: how many of them are class tokens.
        width: width of its tokens.
        patch: height and width of a patch in pixels.
        image: height and width of the images that its configuration states, in pixels.
        fixed: True where it takes images of that size alone.
    """

    path: str
    table: str
    rows: int
    before: int
    width: int
    patch: Size
    image: Size | None
    fixed: bool

    @property
    def patches(self) -> int:
        """How many patches the table is for."""
        return self.rows - self.before


def tower_of(path: str, tower: nn.Module) -> Tower | None:
    """Read a tower, or give None where it has no table of positions or no patches.

    Args:
        path: where it is.
        tower: the tower.
    """
    from torch import nn

    table = next(((n, p) for n, p in tower.named_parameters() if n.endswith(_TABLES)), None)
    cut = (m for m in tower.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride)
    convolution = next(cut, None)
    if table is None or convolution is None:
        return None
    name, values = table
    return Tower(
        path,
        below(path, name),
        int(values.shape[-2]),
        int(any(n.endswith(_CLASS) for n, _ in tower.named_parameters())),
        int(values.shape[-1]),
        (int(convolution.stride[0]), int(convolution.stride[1])),
        _image(tower),
        _is_fixed(tower, name),
    )


def _image(tower: Any) -> Size | None:
    stated = getattr(getattr(tower, "config", None), "image_size", None)
    return None if stated is None else pair(stated)


def _is_fixed(tower: nn.Module, table: str) -> bool:
    """Tell whether the module that holds the table interpolates it only where it is asked to."""
    path = table.removesuffix(".weight").rpartition(".")[0]
    asked = inspect.signature(tower.get_submodule(path).forward).parameters
    return "interpolate_pos_encoding" in asked


def reads(connector: nn.Module) -> tuple[str, int] | None:
    """Give the first weight of a connector that meets the tower's tokens, and its input width."""
    found = next(((n, p) for n, p in _weights(connector)), None)
    return None if found is None else (found[0], int(found[1].shape[-1]))


def gives(connector: nn.Module) -> tuple[str, int] | None:
    """Give the last matrix of a connector, and its output width."""
    found = [(n, p) for n, p in _weights(connector) if p.dim() == 2]
    return (found[-1][0], int(found[-1][1].shape[0])) if found else None


def _weights(connector: nn.Module) -> list[tuple[str, Tensor]]:
    """Give the weights of a connector's linear layers and norms, in module order."""
    from torch import nn

    kinds = (nn.Linear, nn.LayerNorm)
    return [(f"{n}.weight" if n else "weight", m.weight) for n, m in connector.named_modules()
            if isinstance(m, kinds)]  # fmt: skip


def text_width(model: Any) -> tuple[int, int] | None:
    """Give rows and width of a model's table of tokens, or None where it has none."""
    get = getattr(model, "get_input_embeddings", None)
    try:
        table = getattr(get() if get else None, "weight", None)
    except NotImplementedError:
        return None
    return None if table is None or table.dim() != 2 else (int(table.shape[0]), int(table.shape[1]))
