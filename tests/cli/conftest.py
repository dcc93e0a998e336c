from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import surgery.errors

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def surgery_command(tmp_path: Path) -> Run:
    """Run ``python -m surgery`` in an empty folder, as a user would."""
    core = Path(surgery.errors.__file__).parents[1]
    paths = [str(core), *(str(core.parent / name) for name in ("plugins", "recipes"))]

    def run(
        *arguments: str, code: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        inherited = os.environ.get("PYTHONPATH", "")
        search = os.pathsep.join([environment.pop("site", ""), *paths, inherited])
        return subprocess.run(
            [sys.executable, *(["-c", code] if code else ["-m", "surgery"]), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": search.strip(os.pathsep), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
