"""What a training writes down: ``metrics.jsonl`` always, trackers beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from surgery.errors import MissingExtraError

FILE = "metrics.jsonl"


class Records:
    """Append what happens to a file, and hand numbers to trackers; a tracker that fails is left.

    Args:
        folder: of the run.
        trackers: names of trackers.
        settings: what the run is made of, for trackers.
        warn: called once for each tracker that fails.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Sequence[str],
        settings: Mapping[str, Any],
        warn: Callable[[str], object],
    ) -> None:
        _mend(folder / FILE)
        self.file = open(folder / FILE, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self.warn = warn
        self.trackers: list[tuple[str, Any]] = []
        for name in trackers:
            self._try(name, partial(self._open, name, folder, settings))

    def write(self, numbers: Mapping[str, Any]) -> None:
        """Record one step, evaluation or event."""
        self.file.write(json.dumps(dict(numbers)) + "\n")
        flat = {k: v for k, v in _flat(numbers).items() if isinstance(v, int | float)}
        step = flat.pop("step", None)
        if step is None:
            return
        for name, tracker in list(self.trackers):
            self._try(name, partial(tracker, flat, int(step)))

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *trouble: object) -> None:
        """Close file and trackers."""
        self.file.close()
        for name, tracker in self.trackers:
            end = getattr(tracker, "close", None)
            if end is not None:
                self._try(name, end)

    def _open(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        kind = _TensorBoard if name == "tensorboard" else _Accelerated
        self.trackers.append((name, kind(name, folder, settings)))

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except MissingExtraError as error:
            self.warn(str(error))
        except Exception as error:
            self.trackers = [(n, t) for n, t in self.trackers if n != name]
            line = " ".join(str(error).split())[:200]
            self.warn(f"tracker {name}: {type(error).__name__}: {line}; {FILE} goes on")


def _mend(file: Path) -> None:
    """Cut off a last line that a killed process did not finish."""
    if not file.exists():
        return
    with file.open("r+b") as kept:
        text = kept.read()
        kept.truncate(text.rfind(b"\n") + 1)


class _TensorBoard:
    """Write event files with TensorBoard's own writer."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ModuleNotFoundError:
            raise MissingExtraError("train.log.trackers", "tensorboard", "train") from None
        self._writer = EventFileWriter(str(folder / "tensorboard"))

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        from time import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._writer.add_event(Event(wall_time=time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class _Accelerated:
    """Use one of accelerate's tracker classes, without its loop."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS
        except ModuleNotFoundError:
            raise MissingExtraError("train.log.trackers", "accelerate", "trackers") from None
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"expected one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        cls = LOGGER_TYPE_TO_CLASS[name]
        given = {"logging_dir": str(folder)} if cls.requires_logging_directory else {}
        self._tracker = cls(folder.name, **given)
        self._tracker.start()
        self._tracker.store_init_configuration(_flat(settings))

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        """Log scalars."""
        self._tracker.log(dict(numbers), step=step)

    def close(self) -> None:
        """End the run."""
        self._tracker.finish()


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{key}/")
        else:
            found[prefix + key] = item
    return found
