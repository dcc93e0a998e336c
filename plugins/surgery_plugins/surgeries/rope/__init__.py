"""Rope: rotary tables for another image size, context or scaling."""

from surgery_plugins.surgeries.rope.surgery import Rope as Rope
