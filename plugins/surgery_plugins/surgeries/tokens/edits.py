"""The edits of the surgery ``tokens``: computed here, placed by the core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import ChangeTokenizer, Derive, Edit, Rewrite, SetConfig
from surgery_plugins.surgeries.tokens import change, ids
from surgery_plugins.surgeries.tokens.initialise import NewRow, Regrown
from surgery_plugins.surgeries.tokens.options import CopyOf, FromText, Initial, NewToken
from surgery_plugins.tokenizers.tables import (
    Table,
    heights,
    others_like,
    size_attributes,
    stated_sizes,
    tables_of,
)

if TYPE_CHECKING:
    from surgery.operate.patient import Patient
    from surgery_plugins.surgeries.tokens.surgery import Tokens

REPLACED = (
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "chat_template.json",
)  # fmt: skip
"""Files of older formats, which transformers still reads and no longer writes."""


def edits_of(surgery: Tokens, sites: Sequence[Site], patient: Patient) -> Iterator[Edit]:
    """Give all edits of one surgery.

    Args:
        surgery: its options.
        sites: the sites of the tables.
        patient: what is operated on.

    Raises:
        RefusedError: something that was asked for cannot be done.
    """
    work = _Work(surgery, patient)
    if work.needs_tokenizer:
        yield work.tokenizer_edit()
        yield from work.id_edits()
    yield from work.table_edits()
    if surgery.train == "new":
        yield from work.train(sites)


@dataclass(frozen=True)
class _Work:
    """Compute the parts of one surgery on one patient, each once."""

    surgery: Tokens
    patient: Patient

    @property
    def needs_tokenizer(self) -> bool:
        surgery = self.surgery
        return bool(surgery.touched or surgery.remove or surgery.chat_template is not None)

    @cached_property
    def old(self) -> Any:
        if self.patient.tokenizer is None:
            raise RefusedError(
                "tokens", "a patient with a tokenizer", "none",
                "put tokenizer.json into its folder, or give a surgery.Patient with a tokenizer",
            )  # fmt: skip
        return self.patient.tokenizer

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        """The ids of all tokens as they are."""
        ids: Mapping[str, int] = self.old.get_vocab()
        return ids

    @cached_property
    def changed(self) -> tuple[Any, dict[str, int]]:
        """The changed tokenizer, and the ids of new tokens."""
        surgery = self.surgery
        made = change.with_renamed(self.old, surgery.rename)
        made = change.with_removed(made, surgery.remove)
        made, new = change.with_added(made, surgery.new)
        made = change.with_marked(made, surgery.special)
        known = made.get_vocab()
        for name, token in surgery.assign.items():
            change.id_of(known, token, f"tokens: assign.{name}")
        if made is self.old:
            from copy import deepcopy

            made = deepcopy(made)
        if surgery.chat_template is not None:
            made.chat_template = surgery.chat_template
        return ids.assigned(made, surgery.assign), new

    @cached_property
    def tables(self) -> list[Table]:
        found = tables_of(self.patient, self.surgery.tables)
        if heights(found):
            raise RefusedError(
                "tokens", "tables of one height", heights(found),
                "name those that change with `tables:`",
            )  # fmt: skip
        return found

    @property
    def rows(self) -> int:
        """The height of the tables as they are."""
        return self.tables[0].rows

    @cached_property
    def height(self) -> int:
        """The height that the tables shall have."""
        tokenizer = self.changed[0] if self.needs_tokenizer else self.patient.tokenizer
        used = self.rows if tokenizer is None else int(max(tokenizer.get_vocab().values())) + 1
        if self.surgery.shrink and tokenizer is None:
            raise RefusedError("tokens: shrink", "a tokenizer that says which rows it uses", "none")
        least = used if self.surgery.shrink else max(used, self.rows)
        multiple = self.surgery.pad_to_multiple_of
        return -(-least // multiple) * multiple

    def tokenizer_edit(self) -> ChangeTokenizer:
        made, _ = self.changed
        for token in self._removed_old():
            number = self._ids[token]
            for place in ids.mentions(self.patient, number):
                raise RefusedError(
                    "tokens: remove", "tokens that nothing refers to", f"{number}, the {place}"
                )
        return ChangeTokenizer("; ".join(self._words()), lambda old: made, REPLACED)

    def id_edits(self) -> Iterator[Edit]:
        made, _ = self.changed
        yield from ids.renaming_edits(self.patient, self.surgery.rename)
        yield from ids.id_edits(self.patient, made, self.surgery.assign)
        if "pad_token" in self.surgery.assign:
            held = {name.rpartition(".")[0] for table in self.tables for name in table.names}
            number = made.get_vocab()[self.surgery.assign["pad_token"]]
            yield from ids.padding_edits(self.patient, held, number)
        if made.chat_template != self.old.chat_template:
            yield from ids.template_edits(self.patient, made.chat_template)

    def table_edits(self) -> Iterator[Edit]:
        new = self.changed[1] if self.needs_tokenizer else {}
        if self.height == self.rows and not new:
            return
        self._refuse_others()
        self._refuse_extended()
        attributes = size_attributes(self.patient.model, self.rows)
        for table in self.tables:
            shape = list(table.shape)
            shape[table.axis] = self.height
            made = Regrown(self.height, self._known, self._new_rows(table), table.axis)
            follow = [*attributes, *self._lengths(table)]
            value = Derive((table.name,), made)
            yield Rewrite(
                table.name, tuple(shape), table.dtype, value,
                dict.fromkeys(follow, self.height),
            )  # fmt: skip
            attributes = []
        for key, size in stated_sizes(self.patient):
            if size == self.rows != self.height:
                yield SetConfig(key, self.height)

    def train(self, sites: Sequence[Site]) -> Iterator[Edit]:
        """Let only the rows of new tokens train, each table's in a tensor of its own."""
        from surgery_plugins.surgeries.freeze import Unfreeze

        new = sorted(self.changed[1].values())
        text = ",".join(map(str, new))
        tables = {table.name: table for table in self.tables if table.kind != "bias"}
        for name, table in tables.items():
            site = next(s for s in sites if s.parameter in table.names)
            grown = replace(site, parameter=name, shape=(self.height, *table.shape[1:]))
            yield from Unfreeze(rows=text).operate([grown], self.patient)

    @cached_property
    def _known(self) -> int:
        """How many rows tokens use before, which are those that were trained."""
        tokenizer = self.patient.tokenizer
        if tokenizer is None:
            return self.rows
        return min(int(max(tokenizer.get_vocab().values())) + 1, self.rows)

    def _new_rows(self, table: Table) -> tuple[NewRow, ...]:
        surgery = self.surgery
        made = []
        for token in surgery.new if self.needs_tokenizer else ():
            init = token.init or surgery.init
            if table.kind != "input":
                init = token.head_init or surgery.head_init or init
            made.append(self._new_row(token, init))
        return tuple(made)

    def _new_row(self, token: NewToken, init: Initial) -> NewRow:
        row = self.changed[1][token.content]
        if isinstance(init, CopyOf):
            where = f"tokens: init of '{token.content}'"
            return NewRow(row, token.content, (change.id_of(self._ids, init.copy_of, where),))
        if isinstance(init, FromText):
            return NewRow(row, token.content, self._pieces(token, init.text))
        if init == "pieces":
            return NewRow(row, token.content, self._pieces(token, token.content))
        return NewRow(row, token.content, drawn=init == "normal")

    def _pieces(self, token: NewToken, text: str) -> tuple[int, ...]:
        found = self.old.encode(text, add_special_tokens=False)
        known = tuple(i for i in found if i != self.old.unk_token_id and i < self.rows)
        if not known:
            raise RefusedError(
                f"tokens: init of '{token.content}'", "a text that the tokenizer knows pieces of",
                f"'{text}', of which it knows none", "write `init: mean` or describe it in words",
            )  # fmt: skip
        return known

    def _lengths(self, table: Table) -> Iterator[str]:
        """Give the attributes of the table's modules that state its height."""
        for name in table.names:
            path, _, leaf = name.rpartition(".")
            module = self.patient.model.get_submodule(path)
            for key in ("num_embeddings", "out_features") if leaf == "weight" else ():
                if vars(module).get(key) == self.rows:
                    yield f"{path}.{key}"

    def _refuse_others(self) -> None:
        others = others_like(self.patient.model, self.tables)
        if others and not self.surgery.tables:
            raise RefusedError(
                "tokens", "tables that the model says are its vocabulary's",
                f"{others[0]} with as many rows ({self.rows})",
                "say which have a row for each token: "
                f"`tables: [{', '.join(table.name for table in self.tables)}]`",
            )  # fmt: skip

    def _refuse_extended(self) -> None:
        from surgery.anatomy.extended import EXTENSIONS

        for name in (name for table in self.tables for name in table.names):
            module = self.patient.model.get_submodule(name.rpartition(".")[0])
            for extension in vars(module).get(EXTENSIONS, {}).values():
                if name in extension.reads:
                    raise RefusedError(
                        "tokens",
                        "tables that nothing else was made for",
                        f"{name}, whose rows {extension.name!r} relies on",
                        "put `tokens` first, and all tokens into one step",
                    )

    def _removed_old(self) -> list[str]:
        back = {new: old for old, new in self.surgery.rename.items()}
        return [back.get(token, token) for token in self.surgery.remove]

    def _words(self) -> Iterator[str]:
        made, new = self.changed
        yield f"{len(self.old)} tokens -> {len(made)}, {self.rows} rows -> {self.height}"
        known = made.get_vocab()
        yield from (f"'{a}' -> '{b}' ({known[b]})" for a, b in self.surgery.rename.items())
        yield from (f"- '{token}'" for token in self.surgery.remove)
        for token in self.surgery.new:
            yield f"+ '{token.content}' ({new[token.content]}, {_shown(token, self.surgery)})"
        yield from (f"special '{text}' ({known[text]})" for text in self.surgery.special)
        for name, text in self.surgery.assign.items():
            yield f"{name} = '{text}' ({known[text]})"
        if self.surgery.chat_template is not None:
            yield "another chat template"


def _shown(token: NewToken, surgery: Tokens) -> str:
    init = token.init or surgery.init
    flags = [name for name in change.FLAGS if getattr(token, name)]
    words = init if isinstance(init, str) else next(f"{k} {v!r}" for k, v in init)
    return ", ".join([*flags, f"from {words}"])
