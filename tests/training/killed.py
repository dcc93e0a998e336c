"""What the processes of ``test_kills`` run; imported once, in the server that forks them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import peft  # noqa: F401  (imported here, it is not imported by every process)
import torch
import transformers  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

from surgery.training.run import train as train_file


def train(recipe: Path, plugin: Path, rank: int, count: int, port: int, resume: bool) -> None:
    """Train in one process of several, and end it as a worker of a launcher ends.

    Args:
        recipe: the recipe.
        plugin: a local plugin.
        rank: number of this process.
        count: how many there are.
        port: where the first one listens.
        resume: go on with a run.
    """
    group = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in group.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
    torch.set_num_threads(1)
    train_file(recipe, resume=resume, plugins=[plugin])
    sys.stdout.flush()
    os._exit(0)
