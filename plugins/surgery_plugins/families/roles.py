"""Roles of linear layers in attentions and feed-forwards, by what their owners call them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from surgery_plugins.families.prompts import below

if TYPE_CHECKING:
    from torch import nn

Roles = Iterator[tuple[str, frozenset[str]]]
"""Module paths and the roles there."""

_NAMES = (
    ("attention.qkv", r"(.*\.)?qkv"),
    ("attention.q", r"(.*\.)?q_proj"),
    ("attention.k", r"(.*\.)?k_proj"),
    ("attention.v", r"(.*\.)?v_proj"),
    ("attention.proj", r"(.*\.)?\w*(attn|attention)\w*\.(proj|o_proj|out_proj)"),
    ("mlp.up", r"(.*\.)?mlp\.(proj_in|layers\.0|fc1)|(.*\.)?linear1"),
    ("mlp.down", r"(.*\.)?mlp\.(proj_out|layers\.1|fc2)|(.*\.)?linear2"),
)
"""What the blocks of SAM 2 and SAM 3 call them, in transformers and in Meta's code."""


def block_roles(path: str, block: nn.Module) -> Roles:
    """Give the roles of one block: itself a layer, and the linear layers in it.

    Linear layers of ``nn.MultiheadAttention`` are left out: it never calls them.

    Args:
        path: the block.
        block: the same.
    """
    yield path, frozenset(("layer",))
    yield from linear_roles(path, block)


def linear_roles(path: str, part: nn.Module) -> Roles:
    """Give the roles of the linear layers in a part, and of no other module.

    Args:
        path: the part.
        part: the same.
    """
    from torch import nn

    fused = tuple(n for n, m in part.named_modules() if isinstance(m, nn.MultiheadAttention))
    for name, module in part.named_modules():
        if not isinstance(module, nn.Linear) or name.startswith(fused or ("\0",)):
            continue
        where = below(path, name)
        for role, pattern in _NAMES:
            if re.fullmatch(pattern, where):
                yield where, frozenset((role,))


def patch_roles(path: str, embed: nn.Module) -> Roles:
    """Give the convolution that cuts patches its role.

    Args:
        path: the module that holds it.
        embed: the same.
    """
    from torch import nn

    for name, module in embed.named_modules():
        if isinstance(module, nn.Conv2d):
            yield below(path, name), frozenset(("patch_embed",))
            return
