"""Trials as tests: they are collected, run, and shown as a table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import PluginError, SurgeryError
from surgery.hooks.registry import Registry, registry
from surgery.testing.laws import LAWS
from surgery.testing.source import with_zoo, zoo_sources
from surgery.testing.trial import FITS, OF_CLASSES, Patients, Trial, judged, surgeries_of, trials
from surgery_pytest.table import Row, table

PROPERTY = "surgery-law"
"""Under this name a report carries what a trial found, also from another process."""


class BrokenError(Exception):
    """Say that a law does not hold."""


class LawItem(pytest.Item):
    """Hold one trial against its law.

    Attributes:
        trial: what is held.
        patients: where patients come from.
        known: what the plugins offer.
    """

    trial: Trial
    patients: Patients
    known: Registry

    def runtest(self) -> None:
        """Pass, skip with the reason, or fail with what was found."""
        found = judged(self.trial, self.patients, self.known)
        row = Row(
            self.trial.subject, self.trial.law, self.trial.patient, found.status, found.detail
        )
        self.user_properties.append((PROPERTY, row.to_json()))
        if found.status == "skipped":
            pytest.skip(found.detail)
        if found.status == "failed":
            raise BrokenError(found.detail)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show what was found instead of this module's lines."""
        if isinstance(excinfo.value, BrokenError):
            return f"{self.trial.subject}: {self.trial.law}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Name the trial."""
        return self.path, None, self.name


class Holder(pytest.Collector):
    """Stand above all trials."""

    def collect(self) -> Iterable[pytest.Item]:
        """Give nothing: the trials are added after all tests are known."""
        return ()


class Laws:
    """Add the trials, and report on them.

    Args:
        config: of pytest, with its options.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.folder = tempfile.TemporaryDirectory(prefix="surgery-laws-")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """Put the trials behind the project's own tests, before some are chosen."""
        try:
            items += self._items(session)
        except SurgeryError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show each surgery, law and patient: passed, failed, or why nothing was said."""
        reports = (one for found in terminalreporter.stats.values() for one in found)
        said = (pair for one in reports for pair in getattr(one, "user_properties", ()))
        rows = [Row(**value) for name, value in said if name == PROPERTY]
        if rows:
            terminalreporter.section("surgery conformance")
            order = [*OF_CLASSES, FITS, *LAWS]
            rows.sort(key=lambda row: order.index(row.law))
            for line in table(dict.fromkeys(rows)):
                terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        """Remove the patients' files."""
        self.folder.cleanup()

    def _items(self, session: pytest.Session) -> Iterator[pytest.Item]:
        names = list(self.config.getoption("--surgery-plugin")) or [_own(self.config.rootpath)]
        files = [Path(name) for name in names if name.endswith(".py")]
        known = with_zoo(registry(files))
        _demand_whole(known, names)
        patients = self._patients(Path(self.folder.name))
        words = [Path(name).name if name.endswith(".py") else name for name in names]
        holder = Holder.from_parent(session, name="laws", nodeid="surgery-conformance")
        for trial in trials(surgeries_of(known, words), patients):
            parts = (trial.subject, trial.patient, trial.law)
            item = LawItem.from_parent(holder, name="::".join(filter(None, parts)))
            item.trial, item.patients, item.known = trial, patients, known
            yield item

    def _patients(self, folder: Path) -> Patients:
        found: dict[str, Any] = dict(zoo_sources(folder))
        own = folder / "own"
        own.mkdir()
        for given in self.config.hook.pytest_surgery_patients(folder=own):
            found |= {name: (lambda source=source: source) for name, source in given.items()}
        return found


def _demand_whole(known: Registry, names: Iterable[str]) -> None:
    """Demand that none of the plugins that are asked for is broken.

    Raises:
        PluginError: one is.
    """
    from surgery.hooks.discover import normal_name

    asked = set(map(normal_name, names))
    for fault in known.faults:
        if normal_name(fault.distribution) in asked:
            raise fault.error


def _own(root: Path) -> str:
    """Give the name of the project in whose folder pytest runs.

    Raises:
        PluginError: no file says it.
    """
    import re

    file = root / "pyproject.toml"
    text = file.read_text("utf-8") if file.is_file() else ""
    _, _, project = text.partition("[project]")
    found = re.search(r'^name\s*=\s*["\']([^"\']+)["\']', project.partition("\n[")[0], re.M)
    if found is None:
        wanted, hint = "a name under [project]", "say which plugin: --surgery-plugin NAME"
        raise PluginError(str(file), wanted, "none", hint)
    return found[1]
