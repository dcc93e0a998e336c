"""The plugin of pytest: ``--surgery-conformance`` holds surgeries against the laws.

Who does not ask for it pays nothing: only options are added, and nothing else is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("surgery", "conformance of surgeries")
    group.addoption(
        "--surgery-conformance",
        action="store_true",
        help="hold each surgery of this project, by its examples, against the laws on the zoo",
    )
    group.addoption(
        "--surgery-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="surgeries of this plugin instead (an installed distribution, a FILE.py, or the name "
        "of one surgery); may be given several times",
    )


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Let a conftest.py bring patients beside those of the zoo."""
    from surgery_pytest import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Bring the laws in, where they are asked for."""
    if config.getoption("--surgery-conformance"):
        from surgery_pytest.laws import Laws

        config.pluginmanager.register(Laws(config), "surgery-laws")
