"""How much memory a training has taken."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Give the most bytes taken so far: on an accelerator allocated ones, else resident ones."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
