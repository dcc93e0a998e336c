"""The built-in surgeries, in the order in which they are listed."""

from __future__ import annotations

from surgery.operate.merge import Merge
from surgery_plugins.surgeries.attach import Attach
from surgery_plugins.surgeries.cast import Cast
from surgery_plugins.surgeries.freeze import Freeze, Unfreeze
from surgery_plugins.surgeries.fuse import Fuse, Unfuse
from surgery_plugins.surgeries.head import Head
from surgery_plugins.surgeries.layers import Layers
from surgery_plugins.surgeries.lean import Lean
from surgery_plugins.surgeries.lora import Lora, LoraCombine
from surgery_plugins.surgeries.patch_embed import PatchEmbed
from surgery_plugins.surgeries.peft_bridge import Peft
from surgery_plugins.surgeries.pos_embed import PosEmbed
from surgery_plugins.surgeries.resampler import Resampler
from surgery_plugins.surgeries.rope import Rope
from surgery_plugins.surgeries.swap import Swap
from surgery_plugins.surgeries.tensors import Tensors
from surgery_plugins.surgeries.tokens.surgery import Tokens
from surgery_plugins.surgeries.untie import Untie

BUILT_IN = (
    Freeze,
    Unfreeze,
    Untie,
    Tokens,
    Resampler,
    Lora,
    LoraCombine,
    Merge,
    Peft,
    Lean,
    Rope,
    PosEmbed,
    PatchEmbed,
    Head,
    Layers,
    Fuse,
    Unfuse,
    Swap,
    Tensors,
    Attach,
    Cast,
)
