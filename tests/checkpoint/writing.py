"""Outputs that the tests of this folder write and look at."""

from __future__ import annotations

from pathlib import Path

from surgery.checkpoint.manifest import check_manifest, write_manifest
from surgery.checkpoint.publish import publish

PARTS = 4


def write_output(final: Path, mark: str, force: bool = False) -> None:
    """Publish a folder whose every file holds a mark."""
    with publish(final, force=force) as folder:
        fill(folder, mark)


def fill(folder: Path, mark: str) -> None:
    """Write the files of an output."""
    (folder / "deep").mkdir()
    for number in range(PARTS):
        with open(folder / "deep" / f"part-{number}", "w", encoding="utf-8") as file:
            file.write(mark * 1000)
    with open(folder / "mark", "w", encoding="utf-8") as file:
        file.write(mark)
    write_manifest(folder)


def mark_of(final: Path) -> str | None:
    """Give the mark of a complete output, None where nothing stands; fail on anything between."""
    if not final.exists():
        return None
    check_manifest(final)
    mark = (final / "mark").read_text("utf-8")
    texts = [(final / "deep" / f"part-{n}").read_text("utf-8") for n in range(PARTS)]
    assert texts == [mark * 1000] * PARTS
    return mark


def strangers(final: Path) -> set[str]:
    """List what stands beside an output and its lock."""
    return {path.name for path in final.parent.iterdir()} - {final.name, f".{final.name}.lock"}
