"""Models to test on: tiny ones with weights, and every architecture of transformers on meta."""
