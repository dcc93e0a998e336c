"""Modules that surgeries place: plain numbers in, shapes stated."""
