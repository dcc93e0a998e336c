"""The built-in plugin: it reaches the core through entry points, as a stranger's does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.hooks.specs import hookimpl

if TYPE_CHECKING:
    from surgery.operate.attachment import Attachment
    from surgery.operate.data import Data
    from surgery.operate.doctor import Doctor
    from surgery.operate.engine import Engine
    from surgery.operate.exporter import Exporter
    from surgery.operate.family import Family
    from surgery.operate.importer import Importer
    from surgery.operate.initialiser import Initialiser
    from surgery.operate.objective import Objective
    from surgery.operate.source import Source
    from surgery.operate.surgery import Surgery


@hookimpl
def surgery_surgeries() -> Sequence[type[Surgery]]:
    """Give the built-in surgeries."""
    from surgery_plugins.surgeries.built_in import BUILT_IN

    return BUILT_IN


@hookimpl
def surgery_sources() -> Sequence[type[Source]]:
    """Give the built-in sources."""
    from surgery_plugins.sources.demo import DemoSource
    from surgery_plugins.sources.hf import HfSource
    from surgery_plugins.sources.tensors import TensorsSource

    return (HfSource, DemoSource, TensorsSource)


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
def surgery_attachments() -> Sequence[type[Attachment]]:
    """Give the built-in modules to be placed beside a model."""
    from surgery_plugins.surgeries.attach.kinds import BUILT_IN

    return BUILT_IN


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
    from surgery_plugins.families.chat import InternVLChat
    from surgery_plugins.families.sam2 import Sam2
    from surgery_plugins.families.sam3 import Sam3
    from surgery_plugins.families.vlm import VisionLanguage

    return (VisionLanguage(), InternVLChat(), Sam2(), Sam3())


@hookimpl
def surgery_objectives() -> Sequence[type[Objective]]:
    """Give the built-in objectives."""
    from surgery_plugins.objectives.causal_lm import CausalLm
    from surgery_plugins.objectives.classification import Classification
    from surgery_plugins.objectives.contrastive import Contrastive
    from surgery_plugins.objectives.pseudo_gumbel import PseudoGumbel
    from surgery_plugins.objectives.segmentation import Segmentation

    return (CausalLm, Classification, Contrastive, Segmentation, PseudoGumbel)


@hookimpl
def surgery_data() -> Sequence[type[Data]]:
    """Give the built-in data sets."""
    from surgery_plugins.data.arrow import Arrow, Parquet
    from surgery_plugins.data.cldr_names import CldrNames
    from surgery_plugins.data.csv_table import Csv
    from surgery_plugins.data.image_text import ImageText
    from surgery_plugins.data.images import ImageMask
    from surgery_plugins.data.jsonl import Jsonl
    from surgery_plugins.data.text_pairs import TextPairs

    return (Jsonl, Csv, Parquet, Arrow, TextPairs, CldrNames, ImageMask, ImageText)


@hookimpl
def surgery_engines() -> Sequence[type[Engine]]:
    """Give the built-in engines of training."""
    from surgery_plugins.engines.hf_trainer import HfTrainer

    return (HfTrainer,)
