"""The contract that every surgery keeps, built in or a stranger's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from surgery.anatomy.site import Site

if TYPE_CHECKING:
    from surgery.operate.edits import Edit
    from surgery.operate.patient import Patient


class Surgery(BaseModel):
    """Describe one operation; its fields are the recipe's ``with:``.

    A subclass is frozen data plus two verbs. It never touches the model: ``operate`` returns
    edits and the core places them.

    Attributes:
        name: what a recipe writes under ``use:``. Third parties write ``vendor/name``.
        identity_at_init: True where the outputs are unchanged until something is trained.
        narrows: names of surgeries whose trainable flags this one may override when it comes
            later, because that is what it is for (``unfreeze`` after ``freeze``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    identity_at_init: ClassVar[bool] = False
    narrows: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def refuse(self, site: Site) -> str | None:
        """Say why the surgery cannot operate at a site, from types and shapes alone.

        Returns:
            None where it can; else a clause that completes "cannot operate on X: ...".
        """

    @abstractmethod
    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give the edits for the selected sites, none of which was refused.

        Args:
            sites: the sites, in module order; one of a fused weight's parts each where a role
                was selected.
            patient: what is operated on; its model must not be changed here.
        """

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Give remarks for the reader of the plan; none by default."""
        return ()
