"""Adopt checkpoints of other tools."""
