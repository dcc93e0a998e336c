"""Run benchmarks: ``python -m bench NAME...`` or ``python -m bench --all [--quick]``."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count, getloadavg
from pathlib import Path
from platform import machine, processor, python_version
from subprocess import run

import bench

RESULTS = Path(__file__).parent / "results"
HELPERS = {"__main__", "checkpoint", "peers", "process", "rounds"}
ALONE = {"gpu"}
"""What ``--all`` leaves out."""


def main() -> None:
    """Run the named benchmarks, print their tables and write their results."""
    names = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name not in HELPERS)
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--all", action="store_true", help="run every benchmark")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller inputs")
    options = parser.parse_args()
    unknown = set(options.names) - set(names)
    if unknown or not (options.names or options.all):
        parser.error(f"choose from {', '.join(names)}")
    for name in [one for one in names if one not in ALONE] if options.all else options.names:
        before = getloadavg()[0]
        result = importlib.import_module(f"bench.{name}").run(quick=options.quick)
        _print(name, result)
        load = [round(before, 1), round(getloadavg()[0], 1)]
        _write(name, {**_stamp(), "load": load, "quick": options.quick, **result})


def _print(name: str, result: dict) -> None:
    print(f"\n{name}: {result.get('what', '')}")
    for row in result["rows"]:
        print("  " + "  ".join(f"{key}={value}" for key, value in row.items()))
    for line in result.get("verdicts", ()):
        print(f"  {line}")


def _stamp() -> dict:
    commit = run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{machine()} {processor()}".strip(),
        "cores": cpu_count(),
        "versions": {"python": python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "peft", "safetensors", "mergekit", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write(name: str, result: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    suffix = "-quick" if result["quick"] else ""
    (RESULTS / f"{name}{suffix}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
