"""Write what was adopted: weights, adapters, configuration, journal and manifest, in one step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from surgery.checkpoint.digests import digest_files
from surgery.checkpoint.dtypes import size_of
from surgery.checkpoint.index import INDEX, SINGLE, open_checkpoint
from surgery.checkpoint.legacy.find import metadata_of
from surgery.checkpoint.manifest import write_manifest
from surgery.checkpoint.publish import publish
from surgery.checkpoint.strict import show_path
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.writer import NewEntry, write_tensors
from surgery.checks.check import Check, demand
from surgery.checks.ledger import ledger
from surgery.errors import RefusedError
from surgery.flow.adopt.adapters import write_adapters
from surgery.flow.adopt.components import checks_of
from surgery.flow.adopt.task import Found
from surgery.flow.files import CHANGED, JOURNAL
from surgery.operate.journal import Journal, versions

CONFIG = "config.json"


@dataclass(frozen=True)
class Adopted:
    """What was written.

    Attributes:
        folder: where.
        journal: the record.
        checks: the proof.
        adapters: names of folders with adapters.
    """

    folder: Path
    journal: Journal
    checks: tuple[Check, ...]
    adapters: tuple[str, ...] = ()


def adopt(
    found: Found,
    output: Path,
    *,
    force: bool = False,
    report: Callable[[str], object] = lambda what: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Adopted:
    """Write an adopted checkpoint, or nothing at all.

    Args:
        found: what ``examine`` found.
        output: the folder to publish.
        force: replace what stands there.
        report: called at the beginning of each part.
        progress: called with bytes that are written, and bytes in all.

    Raises:
        OutputError: the folder exists or cannot be written.
        Problems: what was written is not what was read.
    """
    entries = list(found.resolved.entries.values())
    total = sum(map(_bytes, entries))
    with publish(output, force=force, needed_bytes=total) as folder:
        report("write")
        done = [0]

        def count(size: int) -> None:
            done[0] += size
            progress(done[0], total)

        _write_weights(folder, entries, found.task.shard_bytes, count)
        adapters = write_adapters(found, folder)
        _write_config(found, folder)
        report("digest")
        journal = _journal(found, folder, adapters)
        write_tensors(folder / CHANGED, [])
        text = journal.model_dump_json(indent=1) + "\n"
        (folder / JOURNAL).write_text(text, encoding="utf-8")
        write_manifest(folder)
        written = _read_back(folder, entries)
        demand([written], str(output))
    return Adopted(output, journal, (*checks_of(found.components), written), tuple(adapters))


def _bytes(entry: NewEntry) -> int:
    return prod(entry.shape) * size_of(entry.dtype)


def _write_weights(
    folder: Path, entries: list[NewEntry], most: int, progress: Callable[[int], object]
) -> None:
    """Write one file, or shards and their index."""
    shards = list(_sharded(entries, most))
    if len(shards) == 1:
        write_tensors(folder / SINGLE, shards[0], progress=progress)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / name, shard, progress=progress)
        places |= dict.fromkeys((entry.name for entry in shard), name)
    index = {"metadata": {"total_size": sum(map(_bytes, entries))}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _sharded(entries: list[NewEntry], most: int) -> Iterator[list[NewEntry]]:
    """Part tensors, in their order, so that no part of several is larger than so many bytes."""
    shard: list[NewEntry] = []
    size = 0
    for entry in entries:
        if shard and size + _bytes(entry) > most:
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += _bytes(entry)
    yield shard


def _write_config(found: Found, folder: Path) -> None:
    """Let the declared structure's files travel along, where the folder holds all of it."""
    if not found.complete or found.patient is None:
        return
    for name, path in found.companions.items():
        shutil.copyfile(path, folder / name)
    config = found.patient.config
    if CONFIG not in found.companions and hasattr(config, "save_pretrained"):
        if not getattr(config, "architectures", None):
            config.architectures = [type(found.patient.model).__name__]
        config.save_pretrained(folder)


def _journal(found: Found, folder: Path, adapters: list[str]) -> Journal:
    """Record where everything came from; a complete model names its own folder as its base."""
    return Journal(
        seed=0,
        steps=[],
        tensors={},
        base={**_here(found, folder), "adopted": record_of(found, adapters)},
        versions=versions(),
    )


def _here(found: Found, folder: Path) -> dict[str, Any]:
    if not found.complete or found.source is None:
        return {}
    try:
        here = found.source.moved(".")
    except RefusedError:
        return {}
    digest = {"files": digest_files(open_checkpoint(folder))}
    return {"source": here.name, "options": here.model_dump(mode="json"), "digest": digest}


def record_of(found: Found, adapters: list[str]) -> dict[str, Any]:
    """Give what adopting did, as JSON values."""
    resolved = found.resolved
    return {
        "from": show_path(found.task.path.name),
        "files": digest_files(found.legacy.files),
        "key": show_path(resolved.state.key),
        "told": metadata_of(found.legacy.tree),
        "objects_read_past": list(found.legacy.left_out),
        "prefix": {"from": resolved.prefix.old, "to": resolved.prefix.new},
        "wrappers": list(resolved.words),
        "renames": [list(pair) for pair in found.task.wishes.renames],
        "names": {name: list(raw) for name, raw in resolved.sources.items() if raw != (name,)},
        "form": resolved.form,
        "pairs": [pair.to_json() for pair in resolved.pairs],
        "dropped": resolved.dropped,
        "structure": found.task.like,
        "components": [one.to_json() for one in found.components],
        "numbers": [one.to_json() for one in found.fitted],
        "adapters": adapters,
        "adapter_scale": _scale(found),
    }


def _scale(found: Found) -> Mapping[str, Any] | None:
    if found.scales is None:
        return None
    alpha, rslora, origin = found.scales
    return {"lora_alpha": alpha, "rslora": rslora, "from": dict(origin)}


def _read_back(folder: Path, entries: list[NewEntry]) -> Check:
    """Read the headers of what was written."""
    held = TensorReader(*open_checkpoint(folder).values()).entries
    found = {name: (entry.shape, entry.dtype) for name, entry in held.items()}
    return ledger({e.name: (tuple(e.shape), e.dtype) for e in entries}, found)
