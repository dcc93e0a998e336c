"""Distributions made on the fly: a module and a dist-info folder on ``sys.path``."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

GOOD = """
from typing import ClassVar
from surgery.hooks.specs import hookimpl
from surgery.operate.surgery import Surgery

class Scale(Surgery):
    \"\"\"Scale something.\"\"\"
    name: ClassVar[str] = "NAME"
    factor: float = 1.0
    def refuse(self, site): return None
    def operate(self, sites, patient): return ()

@hookimpl
def surgery_surgeries(): return [Scale]
"""


def good(name: str) -> str:
    return GOOD.replace("NAME", name)


def distribution(
    site: Path, name: str, code: str | bytes, *, version: str = "1.0", group: str = "surgery"
) -> None:
    module = name.replace("-", "_").replace(".", "_") + "_module"
    body = code if isinstance(code, bytes) else dedent(code).encode()
    (site / f"{module}.py").write_bytes(body)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nmain = {module}\n")
