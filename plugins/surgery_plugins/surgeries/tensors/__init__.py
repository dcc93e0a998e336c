"""Tensors: copy, move, scale, add, split, join, permute and fill tensors by name patterns."""

from surgery_plugins.surgeries.tensors.surgery import Tensors as Tensors
