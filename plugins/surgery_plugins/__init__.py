"""The built-in plugin: it reaches the core through entry points, as a stranger's does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.hooks.specs import hookimpl

if TYPE_CHECKING:
    from surgery.operate.doctor import Doctor
    from surgery.operate.exporter import Exporter
    from surgery.operate.family import Family
    from surgery.operate.importer import Importer
    from surgery.operate.initialiser import Initialiser
    from surgery.operate.source import Source
    from surgery.operate.surgery import Surgery


@hookimpl
def surgery_surgeries() -> Sequence[type[Surgery]]:
    """Give the built-in surgeries."""
    from surgery.operate.merge import Merge
    from surgery_plugins.surgeries.freeze import Freeze, Unfreeze
    from surgery_plugins.surgeries.head import Head
    from surgery_plugins.surgeries.lora import Lora, LoraCombine
    from surgery_plugins.surgeries.patch_embed import PatchEmbed
    from surgery_plugins.surgeries.peft_bridge import Peft
    from surgery_plugins.surgeries.pos_embed import PosEmbed
    from surgery_plugins.surgeries.resampler import Resampler
    from surgery_plugins.surgeries.rope import Rope
    from surgery_plugins.surgeries.tokens.surgery import Tokens
    from surgery_plugins.surgeries.untie import Untie

    return (
        Freeze,
        Unfreeze,
        Untie,
        Tokens,
        Resampler,
        Lora,
        LoraCombine,
        Merge,
        Peft,
        Rope,
        PosEmbed,
        PatchEmbed,
        Head,
    )


@hookimpl
def surgery_sources() -> Sequence[type[Source]]:
    """Give the built-in sources."""
    from surgery_plugins.sources.demo import DemoSource
    from surgery_plugins.sources.hf import HfSource

    return (HfSource, DemoSource)


@hookimpl
def surgery_initialisers() -> Sequence[type[Initialiser]]:
    """Give the built-in initialisers of adapters."""
    from surgery_plugins.surgeries.lora.initialisers.decomposed import Olora, Pissa
    from surgery_plugins.surgeries.lora.initialisers.drawn import (
        Gaussian,
        Kaiming,
        Orthogonal,
        Orthonormal,
    )
    from surgery_plugins.surgeries.lora.initialisers.eva import Eva
    from surgery_plugins.surgeries.lora.initialisers.loftq import Loftq

    return (Kaiming, Gaussian, Orthonormal, Orthogonal, Pissa, Olora, Loftq, Eva)


@hookimpl
def surgery_doctors() -> Sequence[type[Doctor]]:
    """Give the built-in doctors."""
    from surgery_plugins.tokenizers.doctor import TokenizerDoctor

    return (TokenizerDoctor,)


@hookimpl
def surgery_exporters() -> Sequence[Exporter]:
    """Give the built-in exporters."""
    from surgery_plugins.peft.doors import PeftExporter

    return (PeftExporter(),)


@hookimpl
def surgery_importers() -> Sequence[Importer]:
    """Give the built-in importers."""
    from surgery_plugins.peft.doors import PeftImporter

    return (PeftImporter(),)


@hookimpl
def surgery_families() -> Sequence[Family]:
    """Give the built-in families."""
    from surgery_plugins.families.sam3 import Sam3
    from surgery_plugins.families.vlm import VisionLanguage

    return (VisionLanguage(), Sam3())
