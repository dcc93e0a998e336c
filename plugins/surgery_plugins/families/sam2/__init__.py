"""SAM 2: transformers' classes and Meta's."""

from surgery_plugins.families.sam2.family import Sam2 as Sam2
