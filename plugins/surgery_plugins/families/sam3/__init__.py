"""SAM 3: transformers' classes and Meta's."""

from surgery_plugins.families.sam3.family import Sam3 as Sam3
