"""LoRA: low-rank adapters beside frozen weights."""

from surgery_plugins.surgeries.lora.combine import LoraCombine as LoraCombine
from surgery_plugins.surgeries.lora.surgery import Lora as Lora
