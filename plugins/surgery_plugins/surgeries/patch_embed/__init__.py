"""Patch_embed: patch embeddings for another patch size or other input channels."""

from surgery_plugins.surgeries.patch_embed.surgery import PatchEmbed as PatchEmbed
