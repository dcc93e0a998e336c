"""What a folder holds that a page can tell of: an output, the run of a training, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.strict import readable, show_path
from surgery.errors import RecipeError
from surgery.flow.files import JOURNAL, RECIPE
from surgery.report.html.metrics import Metrics, read_metrics
from surgery.training.records import FILE


@dataclass(frozen=True)
class Place:
    """Where the parts of a story are.

    Attributes:
        output: what an apply or a training wrote; None where there is none yet.
        run: the folder of a training, or None.
        metrics: what was recorded in it, or None.
    """

    output: Path | None
    run: Path | None = None
    metrics: Metrics | None = None

    @property
    def recipe(self) -> Path | None:
        """The recipe with everything filled in, where there is one."""
        folders = [one for one in (self.output, self.run) if one is not None]
        return next((one / RECIPE for one in folders if (one / RECIPE).is_file()), None)


def place_of(given: str | Path) -> Place:
    """Find the output of a run, or the run of an output.

    Args:
        given: a folder that ``surgery apply`` or ``surgery train`` wrote, the URL of one, or
            the folder of a run.

    Raises:
        RecipeError: it is neither.
    """
    folder = fetched(given)
    with readable(folder):
        if (folder / FILE).is_file():
            metrics = read_metrics(folder / FILE)
            return Place(_output_of(metrics, folder), folder, metrics)
        if not (folder / JOURNAL).is_file():
            raise RecipeError(
                show_path(given), f"a folder with {JOURNAL} or {FILE}",
                "nothing of the kind" if folder.is_dir() else "no folder",
                "give what `surgery apply` or `surgery train` wrote, or the folder of a run",
            )  # fmt: skip
        run = folder.with_name(f"{folder.name}-run")
        if (run / FILE).is_file():
            metrics = read_metrics(run / FILE)
            if _output_of(metrics, run) == folder.resolve():
                return Place(folder, run, metrics)
    return Place(folder)


def _output_of(metrics: Metrics, run: Path) -> Path | None:
    """Give the output that a run says it wrote, where it stands there."""
    for begun in reversed(metrics.begun):
        output = begun.get("output")
        if isinstance(output, str):
            path = (run / output).resolve()
            return path if (path / JOURNAL).is_file() else None
    return None
