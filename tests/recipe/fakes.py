"""A registry with surgeries and sources of our own, so that the core is tested alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from surgery.hooks.discover import Plugin
from surgery.hooks.offers import Offer
from surgery.hooks.registry import Registry
from surgery.operate.source import Source
from surgery.operate.surgery import Surgery


class _Quiet(Surgery):
    name: ClassVar[str] = "quiet"

    def refuse(self, site: Any) -> None:
        return None

    def operate(self, sites: Any, patient: Any) -> Iterable[Any]:
        return ()


class Nested(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    depth: int = Field(1, ge=1)


class Lora(_Quiet):
    """Add a low-rank update."""

    name: ClassVar[str] = "lora"
    rank: int = Field(8, gt=0, description="Rank of the update.")
    alpha: float = 16.0
    init: Literal["default", "pissa"] = "default"
    patterns: dict[str, int] = Field(default_factory=dict)
    shape: tuple[int, int] = (1, 1)
    nested: Nested | None = None
    text: str | None = None
    limit: int | str | None = None
    even: int = 2

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"expected an even number, got {value}")
        if value > 100:
            raise KeyError("a plugin that fails by itself")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Lora:
        if self.rank > 1000:
            raise ValueError("ranks above 1000 make no sense")
        return self


class Freeze(_Quiet):
    """Stop gradients."""

    name: ClassVar[str] = "freeze"


class Resize(_Quiet):
    """Resize something to a size that must be given."""

    name: ClassVar[str] = "acme/resize"
    size: int = Field(description="The size.")


class _Base(Source):
    def build(self) -> Any: ...

    def load(self) -> Any: ...

    def weights(self) -> Any: ...

    def companions(self) -> Any: ...


class Hf(_Base):
    """Read a folder."""

    name: ClassVar[str] = "hf"
    path: str


class Disk(_Base):
    """Read a file."""

    name: ClassVar[str] = "disk"
    file: Path
    label: str = ""


OWNER = ("acme", "1.5")


def registry_with(*extra: type[Surgery]) -> Registry:
    surgeries = [Offer("surgery", s.name, s, OWNER) for s in (Lora, Freeze, Resize, *extra)]
    sources = [Offer("source", s.name, s, OWNER) for s in (Hf, Disk)]
    return Registry((*surgeries, *sources), plugins=(Plugin(*OWNER, "main", object()),))


REGISTRY = registry_with()

GOOD = """\
recipe: 1
seed: 3
patient: {source: hf, path: ./base}
surgeries:
  - use: freeze
    at: {path: "**"}
  - use: lora
    at: {role: [attention.q, attention.v], layers: "4-11", tower: text}
    with: {rank: 4, alpha: 2e-4}
    expect: 16
output: {path: ./out}
"""
