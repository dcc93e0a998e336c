"""Checkpoints file by file: a token resize, a merge and an adapter, ours beside peers and ``cp``.

Goals, rows 5 and 6. Set ``BENCH_MERGEKIT`` to the ``mergekit-yaml`` of another environment where
it is not on the path. Every command is a process of its own, with one thread for its arithmetic;
ours writes as many files at a time as there are cores. Python keeps what it compiled of all of
them, as it does of installed packages. Ours runs twice: with a base that it hashes (``first``), and
with one of which it remembers the digests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.checkpoint import (
    FULL,
    NEW,
    QUICK,
    Size,
    bytes_of,
    write_adapter,
    write_base,
    write_recipes,
)
from bench.process import compare

SURGERY = (sys.executable, "-m", "surgery")
PEER = (sys.executable, "-m", "bench.peers")
CLASSES = "import torch; from transformers import LlamaForCausalLM, PreTrainedTokenizerFast"
ALONE = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "",
}
FIRST = ("env", "SURGERY_CACHE=/dev/null")
COPY, FLUSHED, BUILT = "cp -r", "cp -r, flushed", "imports"
TRANSFORMERS, PEFT, MERGEKIT = "transformers", "transformers + peft", "mergekit"
RATIOS = (
    ("resize, linked", "wall", COPY, 0.8),
    ("resize, linked", "wall", FLUSHED, 0.8),
    ("resize, linked, first", "wall", COPY, 0.8),
    ("resize, copied", "wall", COPY, 1.3),
    ("resize, copied", "wall", FLUSHED, 1.3),
    ("resize, linked", "wall", f"resize: {TRANSFORMERS}", None),
    ("resize, linked", "cpu", f"resize: {TRANSFORMERS}", None),
    ("resize, linked", "cpu", f"resize: {MERGEKIT}", None),
    ("merge", "wall", COPY, None),
    ("merge", "cpu", COPY, 3.0),
    ("merge, first", "cpu", COPY, 3.0),
    ("merge", "wall", f"merge: {PEFT}", None),
    ("merge", "cpu", f"merge: {PEFT}", 1 / 5),
    ("merge, first", "cpu", f"merge: {PEFT}", 1 / 5),
    ("merge", "cpu", f"merge: {MERGEKIT}", None),
    ("lora", "wall", f"lora: {PEFT}", None),
    ("lora", "cpu", f"lora: {PEFT}", None),
)
"""What is compared: ours, which seconds, the other, and the goal.

Twice: whole commands, and what they take beyond the imports, which no engine can make faster and
which do not grow with the model.
"""

SHORT = (BUILT, COPY, FLUSHED, "resize, linked", "merge", f"merge: {PEFT}")
"""What a quick run runs."""

ROOM = (("resize, linked", 60), ("resize, copied", 60), ("merge", 200), ("lora", 60))
"""Goals for anonymous memory beyond that of the imports, in MB."""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Compare everything on one checkpoint, in interleaved rounds."""
    with tempfile.TemporaryDirectory(prefix="bench-stream-") as name:
        return _run(Path(name), *((QUICK, 1) if quick else (FULL, 3)))


def _run(folder: Path, size: Size, count: int) -> dict[str, Any]:
    base, out = folder / "base", folder / "out"
    total = write_base(base, size)
    recipes = write_recipes(folder, base)
    write_adapter(recipes["lora"], folder / "adapter")
    commands = {**_limits(base, out), **_ours(folder, recipes), **_peers(folder)}
    if size == QUICK:  # no more than shows that each kind runs
        commands = {name: command for name, command in commands.items() if name in SHORT}
    settings = {**ALONE, "SURGERY_CACHE": str(folder / "cache")}
    rows, failures = compare(commands, count, lambda: shutil.rmtree(out, True), settings)
    what = f"{total / 1e9:.2f} GB in {len(bytes_of(base))} files; seconds, and MB at the peak"
    return {
        "what": what,
        "mergekit": _mergekit_version(),
        "rows": rows,
        "verdicts": [
            *_verdicts(rows, size == FULL),
            *(f"{n}: did not run: {why}" for n, why in failures.items()),
        ],
        "commands": {name: " ".join(command) for name, command in commands.items()},
    }


def _limits(base: Path, out: Path) -> dict[str, Sequence[str]]:
    flushed = 'cp -r "$0" "$1" && sync "$1"/*'
    return {
        BUILT: (sys.executable, "-c", CLASSES),
        COPY: ("cp", "-r", str(base), str(out)),
        FLUSHED: ("sh", "-c", flushed, str(base), str(out)),
    }


def _ours(folder: Path, recipes: Mapping[str, Path]) -> dict[str, Sequence[str]]:
    resize = (*SURGERY, "apply", str(recipes["resize"]))
    how = ("--stream", "--quiet")
    there = ("--output", str(folder / "out"))
    merge = (*SURGERY, "merge", str(folder / "adapter"), "--into", str(folder / "out"), *how)
    return {
        "resize, linked, first": (*FIRST, *resize, *there, *how),
        "resize, linked": (*resize, *there, *how),
        "resize, copied": (*resize, *there, *how, "--no-links"),
        "merge, first": (*FIRST, *merge),
        "merge": merge,
        "lora": (*SURGERY, "apply", str(recipes["lora"]), *there, *how),
    }


def _peers(folder: Path) -> dict[str, Sequence[str]]:
    base, out, adapter = (str(folder / name) for name in ("base", "out", "adapter/peft"))
    return {
        "resize: transformers": (*PEER, "resize", base, out),
        "merge: transformers + peft": (*PEER, "merge", base, out, adapter),
        "lora: transformers + peft": (*PEER, "lora", base, out),
        **_mergekit(folder, base, adapter, out),
    }


def _program() -> str | None:
    return os.environ.get("BENCH_MERGEKIT") or shutil.which("mergekit-yaml")


def _mergekit_version() -> str:
    """Say which mergekit was measured, by the Python that it runs with."""
    program = _program()
    if not program:
        return "not installed, and not measured; set BENCH_MERGEKIT to its mergekit-yaml"
    ask = "from importlib.metadata import version; print(version('mergekit'))"
    command = [str(Path(program).parent / "python"), "-c", ask]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _mergekit(folder: Path, base: str, adapter: str, out: str) -> dict[str, Sequence[str]]:
    """Give mergekit's commands, where it is installed."""
    program = _program()
    if not program:
        return {}
    like = {"kind": "model_token", "model": base, "token": "</s>"}
    tokens = {name: {"source": like} for name in NEW}
    common = {"merge_method": "passthrough", "dtype": "bfloat16"}
    configs = {
        "resize": {"models": [{"model": base}], "tokenizer": {"source": base, "tokens": tokens}},
        "merge": {"models": [{"model": f"{base}+{adapter}"}]},
    }
    configs["resize"]["base_model"] = base
    made: dict[str, Sequence[str]] = {}
    for task, config in configs.items():
        file = folder / f"mergekit-{task}.yaml"
        file.write_text(json.dumps({**common, **config}))
        cache = ("--lora-merge-cache", str(folder / "out" / "cache"))
        shard = ("--out-shard-size", "550M")
        made[f"{task}: mergekit"] = (program, str(file), out, *shard, *cache)
    return made


def _verdicts(rows: Sequence[Mapping[str, Any]], large: bool) -> list[str]:
    """Compare with the goals, and times only where they are not those of the imports alone."""
    found = {row["what"]: row for row in rows}
    pairs = [pair for pair in RATIOS if pair[0] in found and pair[2] in found]
    lines = []
    for less, what in ((None, ""), (found[BUILT], " beyond imports")):
        for ours, key, other, goal in pairs:
            ratio = _ratio(found[ours], found[other], key, less)
            wanted = goal if large else None
            lines.append(f"{ours}{what}: {_judged(ratio, wanted)} of {other} in {key} time")
    lines += [_beyond(found[name], found[BUILT], goal) for name, goal in ROOM if name in found]
    return lines


def _ratio(
    ours: Mapping[str, Any], other: Mapping[str, Any], key: str, less: Mapping[str, Any] | None
) -> list[float]:
    """Compare within each round, as what else the machine does changes from one to the next.

    Args:
        ours: a row.
        other: the row to compare with.
        key: ``wall`` or ``cpu``.
        less: the row of the imports, to leave them out of both; ``cp`` has none.
    """
    rounds = f"{key}_rounds"
    start = less[rounds] if less else [0.0] * len(ours[rounds])
    plain = other["what"] in (COPY, FLUSHED)
    return [
        max(one - zero, 0.0) / max(two - (0.0 if plain else zero), 0.01)
        for one, two, zero in zip(ours[rounds], other[rounds], start, strict=False)
    ]


def _judged(ratios: Sequence[float], goal: float | None) -> str:
    value = median(ratios)
    text = f"{value:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    if goal is None:
        return text
    return f"{text} [goal {goal:.2f}: {'met' if value <= goal else 'missed'}]"


def _beyond(ours: Mapping[str, Any], imports: Mapping[str, Any], goal: int) -> str:
    value = ours["anon_mb"] - imports["anon_mb"]
    met = "met" if value <= goal else "missed"
    return f"{ours['what']}: {value} MB beyond imports (goal {goal}: {met})"
