"""The contract that every surgery keeps, built in or a stranger's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from surgery.anatomy.site import Site

if TYPE_CHECKING:
    from surgery.checks.check import Check
    from surgery.operate.edits import Edit
    from surgery.operate.patient import Patient

AtInit: TypeAlias = Literal["equal", "close", "changed"]
"""What outputs are before training: equal bit for bit, close up to rounding, or changed."""


class Surgery(BaseModel):
    """Describe one operation; its fields are the recipe's ``with:``.

    A subclass is frozen data plus two verbs. It never touches the model: ``operate`` returns
    edits and the core places them.

    Attributes:
        name: what a recipe writes under ``use:``. Third parties write ``vendor/name``.
        identity_at_init: True where the outputs are unchanged until something is trained.
        narrows: names of surgeries whose trainable flags this one may override when it comes
            later, because that is what it is for (``unfreeze`` after ``freeze``).
        unties: True where what was tied at its sites may be apart afterwards, because that is what
            it is for.
        examples: how it is used: steps as a recipe writes them, without ``use:``; under
            ``after:`` stand steps that must come before. They are held against the laws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    identity_at_init: ClassVar[bool] = False
    narrows: ClassVar[frozenset[str]] = frozenset()
    unties: ClassVar[bool] = False
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ()

    @property
    def at_init(self) -> AtInit:
        """What the outputs are until something is trained; options may weaken the promise.

        ``close`` promises that they differ by no more, in the L2 norm, than the square root of
        the coarsest precision among the patient's parameters, as a share of their own norm.
        """
        return "equal" if self.identity_at_init else "changed"

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

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give those of the selected sites that the surgery is about; all by default.

        A surgery that finds its own sites is so written without ``at:``, and its journal names
        only them.
        """
        return sites

    def settled(self, sites: Sequence[Site], patient: Patient) -> Surgery:
        """Give the surgery with everything filled in that it has to look up; itself by default.

        What this gives operates and stands in the plan and in the journal, so that a replay looks
        nothing up: settling it once more must give the same.

        Args:
            sites: the sites, none of which was refused.
            patient: what is operated on; its model must not be changed here.
        """
        return self

    def checks(self, patient: Patient) -> Iterable[Check]:
        """Check what must hold after the surgery; nothing by default.

        Args:
            patient: what was operated on, after all steps; its model may be on meta.
        """
        return ()

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Give remarks for the reader of the plan; none by default."""
        return ()
