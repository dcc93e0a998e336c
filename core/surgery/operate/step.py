"""One step of an operation: a surgery and where it is to operate."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.anatomy.selector import Selector
from surgery.operate.surgery import Surgery


@dataclass(frozen=True, slots=True)
class Step:
    """Hold one entry of ``surgeries:``.

    Attributes:
        surgery: the operation, validated.
        at: where.
        expect: how many sites there must be, or None.
        overlap: True where the step may override what an earlier one claimed.
        where: how errors name the step, such as ``surgeries[1]``.
        plugin: distribution and version that offer the surgery.
        needs: the same of others that offer something which its options name.
    """

    surgery: Surgery
    at: Selector
    expect: int | None = None
    overlap: bool = False
    where: str = "surgeries[0]"
    plugin: tuple[str, str] = ("", "")
    needs: tuple[tuple[str, str], ...] = ()
