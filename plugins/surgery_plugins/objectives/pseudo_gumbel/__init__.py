"""Masks from captions that a model writes itself, through a straight-through Gumbel-softmax."""

from surgery_plugins.objectives.pseudo_gumbel.objective import PseudoGumbel as PseudoGumbel
