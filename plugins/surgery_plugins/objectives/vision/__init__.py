"""Images among tokens: how they are prepared, and how many places they take in a text."""

from surgery_plugins.objectives.vision.images import Images as Images
