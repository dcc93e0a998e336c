"""Objectives: what turns samples into a loss."""
