"""What the built-in plugin knows of kinds of models."""
