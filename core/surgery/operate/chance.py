"""Torch's own generator, which all threads share, lent to one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_ONE_AT_A_TIME = RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have what draws from torch's own generator on the CPU draw from a seed.

    For code of others that takes no generator, such as ``reset_parameters``. Values are computed
    on several threads at once: within, no other thread draws, as long as it asks here too.
    Afterwards the generator is as it was.

    Args:
        seed: of everything that is drawn within.
    """
    import torch

    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
