"""Checkpoints of other tools: find the tensors in them and give them their plain names."""
