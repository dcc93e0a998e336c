"""Take the names that wrappers add out of the names of tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from surgery.checkpoint.strict import show
from surgery.errors import PatientError, RecipeError

Value = TypeVar("Value")

PLAIN = "module"
"""What DataParallel, DDP, DeepSpeed and averaged models call what they wrap; others do too."""

WRAPPERS = frozenset({
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module", "_fpw_module",  # FSDP, today and in torch 1.12
    "_checkpoint_wrapped_module",  # activation checkpoints
    "_forward_module",  # Lightning's strategies
    "base_layer", "original_module", "token_adapter",  # PEFT, around the base's own tensors
})  # fmt: skip
"""Names of modules that nobody but a wrapper uses."""

PEFT = ("base_model", "model")
"""What PEFT puts before every name."""

_FLAT = frozenset({"_flat_param", "flat_param"})
_COUNTER = "n_averaged"


@dataclass(frozen=True)
class Cleaning:
    """How names were cleaned.

    Attributes:
        names: for each name in the file, the clean one.
        words: the wrappers' names that were taken out, wherever they stood.
        prefix: what was taken off the beginning of every name after that.
    """

    names: dict[str, str]
    words: tuple[str, ...]
    prefix: str = ""


def core(name: str, words: Collection[str]) -> str:
    """Take words out of the modules of a name; its last part, the tensor's own, stays."""
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in words), last])


def refuse_flat(names: Iterable[str], where: str) -> None:
    """Refuse parameters that FSDP has flattened: their shapes are gone.

    Raises:
        PatientError: there are some.
    """
    for name in names:
        if name.split(".")[-1].startswith(tuple(_FLAT)):
            raise PatientError(
                f"{where}: {show(name)}", "parameters with their own shapes",
                "one that FSDP flattened", "save it anew with StateDictType.FULL_STATE_DICT",
            )  # fmt: skip


def split_counters(tensors: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
    """Give the tensors without the counter of an averaged model, and the names of such."""
    counters = [name for name in tensors if core(name, {*WRAPPERS, PLAIN}) == _COUNTER]
    return {name: one for name, one in tensors.items() if name not in counters}, counters


def clean(names: Sequence[str], where: str) -> Cleaning:
    """Clean names where nothing says what they should be.

    Wrappers' own names go wherever they stand. ``module`` goes from the beginning where all
    names begin with it, and ``base_model.model`` where PEFT left other traces too.

    Raises:
        PatientError: two names would become one.
    """
    words = tuple(sorted({part for name in names for part in name.split(".")[:-1]} & WRAPPERS))
    cores = {name: core(name, words) for name in names}
    prefix = _leading(list(cores.values()), peft="base_layer" in words)
    found = {name: one.removeprefix(prefix) for name, one in cores.items()}
    if twice := collision(found):
        raise _collided(twice, where)
    return Cleaning(found, words, prefix)


def clean_towards(names: Sequence[str], wanted: Sequence[str], where: str) -> list[Cleaning]:
    """Give the ways to clean names that may meet those of a structure, the most thorough first.

    A word is taken out of both sides, so that a structure may use it for itself.

    Raises:
        PatientError: two names of the file become one, however they are cleaned.
    """
    found: list[Cleaning] = []
    choices: tuple[Collection[str], ...] = ({*WRAPPERS, PLAIN}, WRAPPERS, ())
    for words in choices:
        used = tuple(sorted({p for n in names for p in n.split(".")[:-1]} & set(words)))
        cores = {name: core(name, used) for name in names}
        both = collision(cores) or collision({name: core(name, used) for name in wanted})
        if not both and all(used != one.words for one in found):
            found.append(Cleaning(cores, used))
    return found


def collision(names: Mapping[str, str]) -> tuple[str, str] | None:
    """Give two names that become the same, or None."""
    taken: dict[str, str] = {}
    for name, short in names.items():
        if short in taken:
            return taken[short], name
        taken[short] = name
    return None


def renamed(cleaning: Cleaning, renames: Sequence[tuple[str, str]], where: str) -> Cleaning:
    """Replace runs of whole parts in clean names, one rule after the other.

    Args:
        cleaning: the names.
        renames: pairs of dotted parts, old and new; the new ones may be empty.
        where: how errors name the file.

    Raises:
        RecipeError: a rule changes nothing.
        PatientError: two names would become one.
    """
    names = dict(cleaning.names)
    for old, new in renames:
        changed = {name: _replaced(one, old, new) for name, one in names.items()}
        if changed == names:
            raise RecipeError(f"--rename {old}={new}", "a part of some name", "no such name")
        names = changed
    if twice := collision(names):
        raise _collided(twice, where)
    return Cleaning(names, cleaning.words, cleaning.prefix)


def _replaced(name: str, old: str, new: str) -> str:
    return f".{name}.".replace(f".{old}.", f".{new}." if new else ".").strip(".")


def _leading(names: list[str], peft: bool) -> str:
    """Find what wrappers put before all names, one inside the other."""
    prefix, heads = "", [PLAIN + ".", *([".".join(PEFT) + "."] if peft else [])]
    while names:
        head = next((h for h in heads if all(n.startswith(prefix + h) for n in names)), None)
        if head is None:
            break
        prefix += head
    return prefix


def _collided(twice: tuple[str, str], where: str) -> PatientError:
    return PatientError(
        where, "one tensor for each name", f"{show(twice[0])} and {show(twice[1])}, which mean one",
        "leave one out with --drop",
    )  # fmt: skip
