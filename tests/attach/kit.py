"""Models with modules beside them, and steps that attach some."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from surgery_plugins.modules.attached import Layout

FREEZE = {"use": "freeze", "at": {"type": "Module"}, "with": {"eval_mode": True}}


def attach(called: str, path: str | None, module: Any, **options: Any) -> dict[str, Any]:
    """Give a step as a recipe writes it; without a path, everything is selected."""
    at = {} if path is None else {"at": {"path": path}}
    return {"use": "attach", **at, "with": {"called": called, "module": module, **options}}


VIEW = attach(
    "view", "vision_encoder",
    {"use": "pooled_view", "layout": "channels_first", "hidden": [16], "out": 4},
    output="fpn_hidden_states.2",
)  # fmt: skip
SEGMENT = attach(
    "segment", "vision_encoder",
    {"use": "conv", "layout": "channels_first", "channels": [16, 8], "out": 1},
    output="fpn_hidden_states.0",
)  # fmt: skip
CASE_002 = [FREEZE, VIEW, SEGMENT]


class Plain(nn.Module):
    """Give a tensor without a name; two layers, of which one runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.twice = nn.Linear(6, 6)
        self.idle = nn.Linear(6, 6)
        self.table = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        """Give [batch, tokens, 6] of [batch, tokens, 4]."""
        made: Tensor = self.twice(self.twice(self.first(x)).tanh())
        return made + self.table.sum()


def plain() -> tuple[Plain, dict[str, Any]]:
    """Give the model and inputs of one forward."""
    torch.manual_seed(0)
    return Plain().eval(), {"x": torch.randn(2, 5, 4)}


def laid_out(image: Tensor, layout: Layout, prefix: int = 0) -> Tensor:
    """Give a map, [batch, channels, height, width], in another layout, behind some tokens."""
    if layout == "channels_first":
        return image
    if layout == "channels_last":
        return image.movedim(1, -1)
    tokens = image.flatten(2).transpose(1, 2)
    return torch.cat([torch.full_like(tokens[:, :1], 9.0).expand(-1, prefix, -1), tokens], 1)
