"""Engines of training other than the loop that comes with surgery."""
