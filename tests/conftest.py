"""Settings and fixtures of all tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

from tests.command import Ran

settings.register_profile("surgery", deadline=None)  # shared machines are slow at times
settings.load_profile("surgery")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""
    from surgery.cli import main

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Ran(status, printed.out, printed.err)

    return call
