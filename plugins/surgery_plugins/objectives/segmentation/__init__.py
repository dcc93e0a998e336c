"""Segmentation: SAM 2, SAM 3 and any model that gives the logits of masks."""

from surgery_plugins.objectives.segmentation.objective import Segmentation as Segmentation
