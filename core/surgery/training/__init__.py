"""Training: the loop, its strategies, guards and checkpoints."""
