"""Tell the tensors of PEFT adapters from those of the base, and give them PEFT's saved names.

Source of the names: PEFT's ``get_peft_model_state_dict``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.checkpoint.strict import show
from surgery.checkpoint.writer import NewEntry
from surgery.errors import PatientError, RecipeError

SAVED = "base_model.model."
"""What every name in a PEFT adapter begins with."""

_LORA = re.compile(
    r"(?P<path>.+)\.(?P<part>lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))"
    r"(?:\.(?P<adapter>[^.]+?))?(?P<weight>\.weight|\.bias)?"
)
_SAVED_MODULE = re.compile(
    r"(?P<path>.+)\.(?P<part>modules_to_save)\.(?P<adapter>[^.]+)\.(?P<weight>.+)"
)
_OTHER = re.compile(
    r"(?:.+\.)?(?:lora_\w+|ia3_\w+|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|vera_\w+|fourierft_\w+"
    r"|vblora_\w+|hra_\w+|bone_\w+|miss_\w+|randlora_\w+|shira_\w+|road_\w+|c3a_\w+|ln_tuning_\w+"
    r"|trainable_tokens_(?:delta|original)|adaption_\w+|ranknum|prompt_encoder|prompt_embeddings"
    r"|internal_xlora_\w+)(?:\..+)?"
)
_DEFAULT = "default"


@dataclass(frozen=True)
class Piece:
    """One tensor of an adapter.

    Attributes:
        name: its name in the file.
        path: the module that it adapts, as the file names it.
        part: such as ``lora_A``, or ``modules_to_save``.
        tail: what follows the adapter's name, with its dot.
    """

    name: str
    path: str
    part: str
    tail: str


@dataclass(frozen=True)
class Adapters:
    """The adapters of a checkpoint.

    Attributes:
        pieces: the tensors of each LoRA adapter, by its name.
        others: names of tensors of other methods, which cannot be split off.
    """

    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pieces or self.others)

    @property
    def names(self) -> list[str]:
        """Names in the file of all tensors of adapters."""
        return [*(piece.name for found in self.pieces.values() for piece in found), *self.others]


def adapters_of(names: Iterable[str], own: Collection[str] = ()) -> Adapters:
    """Find the tensors of adapters.

    Args:
        names: the names in the file.
        own: parts of names that the structure uses itself, which are no adapter's then.
    """
    pieces: dict[str, list[Piece]] = {}
    others = []
    for name in names:
        found = _LORA.fullmatch(name) or _SAVED_MODULE.fullmatch(name)
        if found and found["part"] not in own:
            tail = found["weight"] or ""
            tail = f".{tail}" if found["part"] == "modules_to_save" else tail
            piece = Piece(name, found["path"], found["part"], tail)
            pieces.setdefault(found["adapter"] or _DEFAULT, []).append(piece)
        elif _OTHER.fullmatch(name) and own_free(name, own):
            others.append(name)
    return Adapters(pieces, tuple(others))


def own_free(name: str, own: Collection[str]) -> bool:
    """Tell whether the part of a name that an adapter would have added is not the structure's."""
    return not any(_OTHER.fullmatch(part) for part in name.split(".") if part in own)


def refuse_adapters(found: Adapters, where: str) -> None:
    """Say that there are adapters, and what can be done.

    Raises:
        PatientError: there are some.
    """
    if not found:
        return
    count = len(found.names)
    if found.pieces:
        shown = ", ".join(show(name) for name in sorted(found.pieces)[:5])
        text, choice = f"LoRA adapters {shown} ({count} tensors)", "--adapters split or drop"
    else:
        text, choice = f"{count} tensors of another PEFT method", "--adapters drop"
    raise PatientError(
        where, "a model without adapters", text,
        f"choose with {choice}, or merge them with PEFT where it was written",
    )  # fmt: skip


def refuse_unsplittable(found: Adapters, where: str) -> None:
    """Refuse to split off what only PEFT with its configuration understands.

    Raises:
        PatientError: there are tensors of other methods than LoRA.
    """
    if found.others:
        raise PatientError(
            f"{where}: {show(found.others[0])}", "tensors of LoRA to split off",
            f"{len(found.others)} of another PEFT method",
            "save the adapter with PEFT where it was written, and give --adapters drop",
        )  # fmt: skip


def ranks_of(pieces: Iterable[Piece], tensors: Mapping[str, NewEntry]) -> dict[str, int]:
    """Read the rank of each adapted module from the shape of its A."""
    return {
        piece.path: tensors[piece.name].shape[0]
        for piece in pieces
        if piece.part in ("lora_A", "lora_embedding_A")
    }


def saved_adapter(
    pieces: list[Piece], tensors: Mapping[str, NewEntry], paths: Mapping[str, str]
) -> list[NewEntry]:
    """Give the tensors of an adapter the names under which PEFT saves them.

    Args:
        pieces: the adapter.
        tensors: the tensors of the file.
        paths: the module's path in the adopted model, for each path in the file.
    """
    found = []
    for piece in pieces:
        part = "" if piece.part == "modules_to_save" else f".{piece.part}"
        name = f"{SAVED}{paths[piece.path]}{part}{piece.tail}"
        found.append(tensors[piece.name]._replace(name=name))
    return found


def adapter_config(
    pieces: list[Piece],
    ranks: Mapping[str, int],
    paths: Mapping[str, str],
    alpha: float,
    rslora: bool,
) -> dict[str, Any]:
    """Give what PEFT's ``adapter_config.json`` says of an adapter.

    Args:
        pieces: the adapter.
        ranks: what ``ranks_of`` gave.
        paths: the module's path in the adopted model, for each path in the file.
        alpha: LoRA's alpha.
        rslora: True where the scale is alpha / sqrt(rank), not alpha / rank.
    """
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    saved = sorted({paths[p.path] for p in pieces if p.part == "modules_to_save"})
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "use_dora": any(piece.part == "lora_magnitude_vector" for piece in pieces),
        "rank_pattern": {paths[p]: r for p, r in sorted(ranks.items()) if r != rank},
        "target_modules": sorted(paths[path] for path in ranks),
        "modules_to_save": saved or None,
        "bias": "none",
    }


def demand_scale(
    alpha: float | None, scaling: str | None, told: Mapping[str, bool | int | float]
) -> tuple[float, bool, dict[str, str]]:
    """Give alpha and scaling of a LoRA, which no shape shows: as given, or as the file says.

    Returns:
        Alpha, whether the scale is rank-stabilised, and where each was found.

    Raises:
        RecipeError: neither says it.
    """
    origin = {"lora_alpha": "option", "lora_scaling": "option"}
    if alpha is None and "lora_alpha" in told:
        alpha, origin["lora_alpha"] = float(told["lora_alpha"]), "the file's hyper-parameters"
    if scaling is None and "use_rslora" in told:
        scaling = "rslora" if told["use_rslora"] else "plain"
        origin["lora_scaling"] = "the file's hyper-parameters"
    for option, value in (("--lora-alpha", alpha), ("--lora-scaling", scaling)):
        if value is None:
            wanted = "a number" if option == "--lora-alpha" else "plain (alpha / rank) or rslora"
            instead = "see where the adapter was trained, or give --adapters drop"
            raise RecipeError(option, wanted, "none, and no shape shows it", instead)
    assert alpha is not None
    return alpha, scaling == "rslora", origin
