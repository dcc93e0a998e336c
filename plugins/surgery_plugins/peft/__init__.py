"""PEFT adapters, in both directions: https://huggingface.co/docs/peft ."""
