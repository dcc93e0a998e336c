"""The page: one file of HTML that opens from disk, asks no network and runs no script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from surgery.checkpoint.strict import readable
from surgery.checks.check import Check
from surgery.errors import OutputError
from surgery.report.html.anatomy import diagram_html
from surgery.report.html.chart import chart_html
from surgery.report.html.guards import guard_rows
from surgery.report.html.markup import filled, policy, style
from surgery.report.html.plan import tables_html
from surgery.report.html.story import Story, environment_of
from surgery.report.plan import human_bytes

MARK = '<meta name="generator" content="surgery report">'
"""What stands near the beginning of each page."""


def page_html(story: Story) -> str:
    """Give the page as text; every text in it is escaped.

    Args:
        story: what it tells.
    """
    metrics = story.metrics
    folder = story.place.run if story.place.output is None else story.place.output
    assert folder is not None
    page = filled(
        "page.html", story=story, style=style(), policy=policy(), title=folder.resolve().name,
        folder=str(folder), metrics=metrics,
        guards=guard_rows(metrics, story.levels) if metrics else [],
        before=diagram_html(story.before) if story.before else None,
        after=diagram_html(story.after) if story.after else None,
        plan=tables_html(story.tables) if story.tables else None,
        charts=[chart_html(one, n) for n, one in enumerate(metrics.charts)] if metrics else [],
        environment=environment_of(story), proofs=_proofs(story),
        files=[(n, human_bytes(f["size"]), f["sha256"]) for n, f in sorted(story.files.items())],
    )  # fmt: skip
    return str(page)


def write_page(text: str, target: Path, *, force: bool = False) -> None:
    """Write a page in one step; only a page is replaced, unless asked otherwise.

    Args:
        text: the page.
        target: the file.
        force: replace whatever file stands there.

    Raises:
        OutputError: something else stands there.
    """
    if target.is_dir() or (target.exists() and not force and not _is_page(target)):
        found = "a folder" if target.is_dir() else "another file"
        raise OutputError(
            str(target), "a new file, or a page to replace", found,
            "name another file" if target.is_dir() else "name another file, or add --force",
        )  # fmt: skip
    if not target.parent.is_dir():
        raise OutputError(str(target), "a folder that is there", str(target.parent), "make it")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _is_page(target: Path) -> bool:
    with readable(target), target.open("rb") as file:
        return MARK.encode() in file.read(1000)


def _proofs(story: Story) -> list[tuple[str, Sequence[Check]]]:
    """Give the checks made now, and those recorded when a training ended."""
    listed = story.metrics.ended.get("checks") if story.metrics else None
    then = [
        Check(*(str(one.get(key, "")) for key in ("name", "status", "detail")))
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict)
    ]
    found = [
        ("Checked when this page was made", story.checks),
        ("Recorded when it was trained", then),
    ]
    return [(said, checks) for said, checks in found if checks]
