"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def in_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read ``2GB``, ``1.5GiB`` or ``800M``, as the callback of an option.

    Raises:
        click.BadParameter: the text is no size.
    """
    if value is None:
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]I?)?B?\s*", value.upper())
    count = int(float(found[1]) * {**_UNITS, **_BINARY}[found[2] or ""]) if found else 0
    if not count:
        raise click.BadParameter(f"expected a size such as 2GB or 512MiB, got {value!r}")
    return count
