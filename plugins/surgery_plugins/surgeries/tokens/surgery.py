"""The surgery ``tokens``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.tokens.options import Initial, NewToken

if TYPE_CHECKING:
    from surgery.checks.check import Check
    from surgery.operate.edits import Edit
    from surgery.operate.patient import Patient


class Tokens(Surgery):
    """Change tokenizer, embedding, head, configuration and ids together; no ``at:`` is needed."""

    name: ClassVar[str] = "tokens"
    narrows: ClassVar[frozenset[str]] = frozenset(("tokens",))
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"with": {"add": ["[SEG]", "<p>"], "train": "new"}},
    )

    rename: dict[str, str] = Field(
        default_factory=dict, description="New texts by old ones; ids and rows stay."
    )
    remove: tuple[str, ...] = Field(
        default=(), description="Tokens to take away; they must be the last. Rows stay."
    )
    add: tuple[NewToken | str, ...] = Field(
        default=(), description="Tokens to add, or their texts alone: special, not normalized."
    )
    special: tuple[str, ...] = Field(
        default=(), description="Tokens that are there and become special."
    )
    assign: dict[str, str] = Field(
        default_factory=dict,
        description="Tokens by name, such as pad_token, eos_token or image_token; sets their ids "
        "in tokenizer, config, generation config and processor.",
    )
    chat_template: str | None = Field(default=None, description="A new chat template.")
    init: Initial = Field(default="mean", description="Where new input rows come from.")
    head_init: Initial | None = Field(
        default=None, description="Where new output rows come from; by default as the input's."
    )
    pad_to_multiple_of: int = Field(
        default=1, ge=1, description="Round the number of rows up to a multiple."
    )
    shrink: bool = Field(
        default=False, description="Cut rows that no token uses; without it a table never shrinks."
    )
    train: Literal["none", "new"] = Field(
        default="none", description="With `new`, the rows of added tokens alone take gradients."
    )
    tables: tuple[str, ...] = Field(
        default=(), description="Weights with a row for each token, where the model names none."
    )

    @field_validator("add")
    @classmethod
    def _whole(cls, add: tuple[NewToken | str, ...]) -> tuple[NewToken, ...]:
        new = tuple(NewToken(content=t) if isinstance(t, str) else t for t in add)
        twice = {t.content for t in new if [u.content for u in new].count(t.content) > 1}
        if twice:
            raise ValueError(f"expected each token once, got {', '.join(sorted(twice))} twice")
        return new

    @model_validator(mode="after")
    def _something(self) -> Tokens:
        tokens = self.rename or self.remove or self.add or self.special or self.assign
        if not (tokens or self.chat_template or self.pad_to_multiple_of > 1 or self.shrink):
            raise ValueError("expected something to change, got nothing")
        if self.train == "new" and not self.add:
            raise ValueError("expected tokens under add whose rows can train, got none")
        return self

    @property
    def new(self) -> tuple[NewToken, ...]:
        """The tokens to add."""
        return tuple(t for t in self.add if isinstance(t, NewToken))

    @property
    def touched(self) -> frozenset[str]:
        """The texts, afterwards, of all tokens that the surgery adds, renames, marks or names."""
        added = (token.content for token in self.new)
        return frozenset((*added, *self.rename.values(), *self.special, *self.assign.values()))

    def refuse(self, site: Site) -> str | None:
        """Refuse what has no rows; the tables themselves are found by ``scope``."""
        return None if site.shape else "it has no rows"

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the sites of the vocabulary's tables.

        Raises:
            RefusedError: the model names none, or the selector leaves one out.
        """
        from surgery_plugins.tokenizers.tables import tables_of

        tables = [t for t in tables_of(patient, self.tables) if t.kind != "bias"]
        known = {name: table.name for table in tables for name in table.names}
        found = [s for s in sites if s.parameter in known and s.part is None]
        missing = {t.name for t in tables} - {known[str(s.parameter)] for s in found}
        if missing:
            raise RefusedError(
                "tokens", f"a selector that finds {min(missing)} too", "one that does not",
                "leave `at:` out; the tables change together",
            )  # fmt: skip
        return found

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give the edits of tokenizer, tables, configuration and trainable rows."""
        from surgery_plugins.surgeries.tokens.edits import edits_of

        return edits_of(self, sites, patient)

    def checks(self, patient: Patient) -> Iterable[Check]:
        """Examine the tokenizer; what it finds of the surgery's own tokens is a failure."""
        from surgery_plugins.tokenizers.examine import examine

        if patient.tokenizer is None:
            return ()
        return examine(patient, required=self.touched & patient.tokenizer.get_vocab().keys())
