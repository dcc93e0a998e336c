"""Pos_embed: tables of absolute positions for another image size, patch or length."""

from surgery_plugins.surgeries.pos_embed.surgery import PosEmbed as PosEmbed
