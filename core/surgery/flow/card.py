"""The model card of an output: a section of its README.md, between two marks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.anatomy.site import Site
from surgery.errors import RecipeError
from surgery.flow.draft import added_by_extensions
from surgery.operate.journal import Journal
from surgery.operate.operation import Operation
from surgery.operate.plan import PlannedStep
from surgery.operate.source import Source
from surgery.operate.table import parameters
from surgery.recipe.dump import dump_yaml
from surgery.recipe.nodes import plain
from surgery.recipe.rewrite import rewrite
from surgery.recipe.yaml import read_yaml

CARD = "README.md"
"""The model card; people and hubs edit it, so it is no part of the manifest."""

BEGIN = "<!-- surgery: begin. What stands between these marks is written anew. -->"
END = "<!-- surgery: end -->"

LIBRARY = "model-surgery"
_MAX_BYTES = 1_000_000
_FEW = 8
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_SECTION = re.compile(f"<!-- surgery: begin.*?{re.escape(END)}", re.DOTALL)
_TAME = re.compile(r"[\w .,:;/@+=*()\[\]{}'\"#~^?!%&-]+")


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes:
        front: values for its front matter, in the words of the Hugging Face Hub.
        section: Markdown, without the marks.
    """

    front: Mapping[str, Any]
    section: str


@dataclass(frozen=True)
class Trained:
    """What a training did, for the model card.

    Attributes:
        facts: names and values, such as ``steps``.
        metrics: of the best evaluation, by name.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def card_of(
    operation: Operation,
    journal: Journal,
    source: Source | None = None,
    trained: Trained | None = None,
) -> Card:
    """Say what was done; the same operation always gives the same text.

    Args:
        operation: what was done.
        journal: its record.
        source: where the patient came from, if from somewhere.
        trained: what a training did, if there was one.
    """
    said = dict(source.card()) if source is not None else {}
    folds = bool(added_by_extensions(operation))
    parts = [
        ["## Model surgery", "", _summary(operation, journal, said)],
        _steps(operation.plan.steps, journal),
        _base(journal),
        _training(trained) if trained is not None else [],
        _use(folds and journal.whole is None),
    ]
    text = "\n\n".join("\n".join(lines) for lines in parts if lines)
    return Card(_front(operation, journal, said, folds), text)


def write_card(folder: Path, card: Card, over: object = None) -> None:
    """Write a card.

    Args:
        folder: the output.
        card: what to say.
        over: the output that this one replaces; what its card says beside ours is taken over,
            if it lies on this machine.
    """
    file = over / CARD if isinstance(over, Path) else folder / CARD
    before = b""
    if file.is_file() and file.stat().st_size <= _MAX_BYTES:
        before = file.read_bytes()
    text = placed(before.decode("utf-8", errors="surrogateescape"), card)
    (folder / CARD).write_bytes(text.encode("utf-8", errors="surrogateescape"))


def placed(before: str, card: Card) -> str:
    """Put a card into a text; all outside the marks and the card's own values stays.

    Args:
        before: the text, perhaps empty.
        card: what to say.
    """
    front = _FRONT.match(before)
    rest = before[front.end() :] if front else before
    section = f"{BEGIN}\n{card.section}\n{END}"
    if _SECTION.search(rest):
        rest = _SECTION.sub(lambda found: section, rest, count=1)
    else:
        gap = "" if not rest or rest.endswith("\n\n") else "\n" if rest.endswith("\n") else "\n\n"
        rest = f"{rest}{gap}{section}\n"
    return f"---\n{_merged(front[1] if front else '', card.front)}---\n" + (
        rest if front else f"\n{rest}"
    )


def shown(text: str) -> str:
    """Write a stranger's text as code in Markdown: it is never taken for anything else."""
    if _TAME.fullmatch(text) and text == text.strip():
        return f"`{text}`"
    return f"<code>{''.join(map(_entity, text))}</code>"


def _entity(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    if character.isprintable():
        return f"&#{ord(character)};"
    return f"&#92;u{ord(character):04x}"


def _merged(text: str, values: Mapping[str, Any]) -> str:
    """Give front matter other values; what cannot be read is left as it is."""
    if not text.strip():
        return dump_yaml(dict(values), escaped=False)
    try:
        root = read_yaml(text, CARD).root
        old = {} if root is None else plain(root)
        tags = old.get("tags") or []
        tags = dict.fromkeys([*([tags] if isinstance(tags, str) else tags), *values["tags"]])
        return rewrite(text, {**old, **values, "tags": list(tags)}).text
    except (RecipeError, TypeError, AttributeError):
        return text


def _front(
    operation: Operation, journal: Journal, said: Mapping[str, str], folds: bool
) -> dict[str, Any]:
    """Give the front matter, as https://huggingface.co/docs/hub/model-cards describes it."""
    plan = operation.plan
    alone = journal.whole is not None and not folds and "library_name" in said
    values: dict[str, Any] = {"library_name": said["library_name"] if alone else LIBRARY}
    if "base_model" in said:
        adapter = not (journal.whole or journal.trained or plan.changed or plan.removed)
        kind = "adapter" if adapter and plan.added else "finetune"
        values |= {"base_model": said["base_model"], "base_model_relation": kind}
    tags = [LIBRARY, *(planned.step.surgery.name for planned in plan.steps)]
    return {**values, "tags": list(dict.fromkeys(tags))}


def _summary(operation: Operation, journal: Journal, said: Mapping[str, str]) -> str:
    plan = operation.plan
    name = said.get("base_model") or _place(journal.base.get("options", {}))
    base = f"[{name}](https://huggingface.co/{name})" if "base_model" in said else shown(name)
    counts = (
        f"{len(plan.added)} tensors added, {len(plan.changed)} changed, {len(plan.removed)} "
        f"removed; {parameters(plan.after):,} parameters, {parameters(plan.after, True):,} of "
        "them trainable."
    )
    holds = "a whole model" if journal.whole else "the tensors that differ from its base"
    return (
        f"Made of {base if name else 'a model'} by {LIBRARY}. This folder holds {holds}.\n{counts}"
    )


def _place(options: Mapping[str, Any]) -> str:
    """Name a base by the end of its path: the rest is of somebody's machine."""
    path = options.get("path") or options.get("model")
    return PurePosixPath(path).name if isinstance(path, str) else ""


def _steps(steps: Sequence[PlannedStep], journal: Journal) -> list[str]:
    lines = ["| | surgery | options | sites | by |", "|---|---|---|---|---|"]
    for number, (planned, entry) in enumerate(zip(steps, journal.steps, strict=True), start=1):
        surgery = planned.step.surgery
        given = surgery.model_dump(mode="json", exclude_defaults=True)
        options = "<br>".join(f"{shown(k)} {_value(v)}" for k, v in given.items())
        by = f"{entry.plugin} {entry.version}".strip()
        cells = [shown(surgery.name), options, "<br>".join(_sites(planned.sites)), shown(by)]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    return lines


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown(text if len(text) <= 60 else f"{text[:57]}...")


def _sites(sites: Iterable[Site]) -> Iterator[str]:
    """Give the places of sites, those of repeated layers in one line."""
    names = [s.path if s.part is None else f"{s.path}[{s.part}]" for s in sites]
    folded = Counter(re.sub(r"(?<![^.])[0-9]+(?![^.\[])", "*", name) for name in names)
    few = list(folded.items())[: _FEW if len(folded) <= _FEW else 3]
    for name, count in few:
        yield shown(name or "the model") + (f" ×{count}" if count > 1 else "")
    if len(folded) > len(few):
        yield f"and {len(names) - sum(count for _, count in few)} more"


def _base(journal: Journal) -> list[str]:
    files = journal.base.get("digest", {}).get("files", {})
    if not files:
        return []
    lines = ["### Base", "", "| file | bytes | sha256 |", "|---|---|---|"]
    for name, digest in list(files.items())[:_FEW]:
        sum_ = shown(str(digest.get("sha256", "unknown")))
        lines.append(f"| {shown(name)} | {digest.get('size', 0):,} | {sum_} |")
    if len(files) > _FEW:
        lines.append(f"| and {len(files) - _FEW} more, in `surgery.json` | | |")
    return lines


def _training(trained: Trained) -> list[str]:
    lines = ["### Training", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_value(value)} |" for name, value in trained.facts.items()]
    if trained.metrics:
        lines += ["", "| metric | value |", "|---|---|"]
        lines += [f"| {shown(name)} | {value:.6g} |" for name, value in trained.metrics.items()]
    return lines


def _use(folds: bool) -> list[str]:
    """Say how to load, check, merge and undo."""
    commands = ["surgery verify .", *(["surgery merge . --into ../merged"] if folds else [])]
    return [
        "### Use", "", "With `pip install model-surgery`, in this folder:", "",
        "```python", "import surgery", "", 'model = surgery.load(".").model', "```", "",
        "```bash", *commands, "surgery undo . --into ../undone", "```",
    ]  # fmt: skip
