"""Commands and scripts that start a training on several devices or machines.

The loop never starts a process. It joins the process group of whoever did, so that one recipe
runs under all of these. Each script goes on from the run's last checkpoint: on machines that are
taken away and given back nothing is lost.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A training to be started.

    Attributes:
        recipe: file of the recipe, as the machines see it.
        name: of the job.
        machines: how many.
        processes: on each machine, one for each device.
        devices: kind of device, as SkyPilot names it, or None for processors alone.
        sets: overrides of single values of the recipe.
        plugins: local plugins, as the machines see them.
    """

    recipe: str
    name: str
    machines: int = 1
    processes: int = 1
    devices: str | None = None
    sets: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()

    @property
    def arguments(self) -> str:
        """What follows ``torchrun``'s own options."""
        options = [f"--set={one}" for one in self.sets]
        options += [f"--plugin={one}" for one in self.plugins]
        return shlex.join(["-m", "surgery", "train", self.recipe, "--resume", *options])


def torchrun(job: Job) -> str:
    """Give the command for one machine, or the command to run on each of several."""
    if job.machines == 1:
        return f"torchrun --standalone --nproc-per-node {job.processes} {job.arguments}\n"
    return (
        f"# run this on each of {job.machines} machines; HEAD is the name of one of them\n"
        f"torchrun --nnodes {job.machines} --nproc-per-node {job.processes} "
        f"--rdzv-backend c10d --rdzv-endpoint HEAD:29500 --rdzv-id {shlex.quote(job.name)} "
        f"{job.arguments}\n"
    )


def slurm(job: Job) -> str:
    """Give a batch script for ``sbatch``; before its time is over it saves and is queued again."""
    devices = f"#SBATCH --gpus-per-node={job.processes}\n" if job.devices else ""
    return (
        "#!/bin/bash\n"
        f"#SBATCH --job-name={job.name}\n"
        f"#SBATCH --nodes={job.machines}\n"
        "#SBATCH --ntasks-per-node=1\n"
        f"{devices}"
        "#SBATCH --requeue\n"
        "#SBATCH --signal=B:TERM@120\n"
        "set -euo pipefail\n"
        'head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"\n'
        "# TERM goes on to every process, which finishes its step and saves\n"
        "trap 'kill -TERM ${!-} && wait $! || scontrol requeue \"$SLURM_JOB_ID\"' TERM\n"
        f"srun torchrun --nnodes {job.machines} --nproc-per-node {job.processes} \\\n"
        '  --rdzv-backend c10d --rdzv-endpoint "$head:29500" --rdzv-id "$SLURM_JOB_ID" \\\n'
        f"  {job.arguments} &\n"
        "wait $!\n"
    )


def sky(job: Job) -> str:
    """Give a SkyPilot task as YAML."""
    kind = json.dumps(f"{job.devices}:{job.processes}") if job.devices else ""
    devices = f"resources:\n  accelerators: {kind}\n" if job.devices else ""
    return (
        f"name: {job.name}\n"
        f"num_nodes: {job.machines}\n"
        f"{devices}"
        "workdir: .\n"
        "setup: |\n"
        '  pip install "model-surgery[hf,train]"\n'
        "run: |\n"
        '  head="$(echo "$SKYPILOT_NODE_IPS" | sed -n 1p)"\n'
        f'  torchrun --nnodes "$SKYPILOT_NUM_NODES" --nproc-per-node {job.processes} \\\n'
        '    --node-rank "$SKYPILOT_NODE_RANK" --master-addr "$head" --master-port 29500 \\\n'
        f"    {job.arguments}\n"
    )


def ray(job: Job) -> str:
    """Give a Python script for Ray Train; run it where a Ray cluster can be reached."""
    workers = job.machines * job.processes
    given = "".join(
        f", {name}={list(values)!r}"
        for name, values in (("sets", job.sets), ("plugins", job.plugins))
        if values
    )
    return (
        f'"""Train {job.recipe} with Ray: python THIS_FILE."""\n\n'
        "from ray.train import RunConfig, ScalingConfig\n"
        "from ray.train.torch import TorchTrainer\n\n\n"
        "def work() -> None:\n"
        '    """Run in each worker, whose process group Ray has made."""\n'
        "    import surgery\n\n"
        f"    surgery.train({job.recipe!r}, resume=True{given})\n\n\n"
        'if __name__ == "__main__":\n'
        f"    scaling = ScalingConfig(num_workers={workers}, use_gpu={bool(job.devices)})\n"
        f"    run = RunConfig(name={job.name!r})\n"
        "    TorchTrainer(work, scaling_config=scaling, run_config=run).fit()\n"
    )


LAUNCHERS: dict[str, Callable[[Job], str]] = {
    "torchrun": torchrun,
    "slurm": slurm,
    "sky": sky,
    "ray": ray,
}
"""What can start a training, by name."""
