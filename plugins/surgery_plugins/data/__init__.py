"""Data sets: what gives samples by number."""
