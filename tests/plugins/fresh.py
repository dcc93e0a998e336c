"""A fresh environment: wheels of this package and of others, built and installed without network.

What they depend on is seen through a path to the packages of the running Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
NAMES = ("gain", "registers", "perceptron", "regression")
_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.S | re.M)


@dataclass(frozen=True)
class Fresh:
    """An environment of its own.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def run(
        self, command: Sequence[str], where: Path, *, good: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; it must end well, or must not."""
        drop = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
        env = {key: value for key, value in os.environ.items() if key not in drop}
        env |= {"PATH": f"{self.bin}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1", **more}
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]], cwd=where, env=env, capture_output=True,
            text=True, timeout=900, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == good, f"{command}: {done.stdout}{done.stderr}"
        return done

    def install(self, *packages: Path) -> None:
        """Build the wheels of packages and install them."""
        wheels = self.folder / "wheels"
        alone = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
        for package in packages:
            shutil.rmtree(wheels, ignore_errors=True)
            _pip("wheel", *alone, "--no-build-isolation", "-w", str(wheels), str(package))
            (wheel,) = wheels.iterdir()
            python = str(self.bin / "python")
            _pip("--python", python, "install", *alone, "--force-reinstall", str(wheel))

    def read(self, page: Path, where: Path) -> None:
        """Run the blocks of a page in order, as a reader does."""
        for language, text in _BLOCK.findall(page.read_text("utf-8")):
            if language == "python":
                self.run(["python", "-c", text], where)
            else:
                for line in text.splitlines():
                    self.run(line.split(), where)


def fresh(folder: Path) -> Fresh:
    """Make an environment with a wheel of this package."""
    venv.create(folder, with_pip=False)
    made = Fresh(folder)
    (own,) = folder.glob("lib/python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_path(key) for key in ("purelib", "platlib"))
    (own / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    made.install(ROOT)
    return made


def without_source(package: Path, folder: Path) -> Path:
    """Copy a package without its code, so that what is installed is what is tested."""
    ignored = shutil.ignore_patterns("src", "__pycache__", ".pytest_cache")
    return Path(shutil.copytree(package, folder, ignore=ignored))


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def versions(listed: Sequence[dict[str, object]]) -> Iterator[tuple[object, object]]:
    """Give name and version of each plugin that ``surgery plugins --json`` lists as whole."""
    return ((one["name"], one["version"]) for one in listed if not one["broken"])
