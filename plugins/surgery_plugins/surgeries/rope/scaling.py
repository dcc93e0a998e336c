"""The scalings of 1-d rotary tables, as transformers' configurations write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgery.errors import RefusedError
from surgery_plugins.surgeries.fresh.settings import joined, parts_used, stated

if TYPE_CHECKING:
    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient

_OF_SCALING = frozenset(
    (
        "type", "rope_type", "factor", "original_max_position_embeddings", "attention_factor",
        "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor",
        "high_freq_factor", "short_factor", "long_factor",
    )
)  # fmt: skip
"""Keys of ``rope_parameters`` that belong to one scaling; all others are kept."""

_OWN = {
    "yarn": ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
"""Options of each scaling beside its factor."""


class Scaling(BaseModel):
    """Say how the frequencies of rotary positions are scaled.

    The formulas are those of transformers: linear (position interpolation, Chen et al. 2023),
    dynamic (NTK-aware, by the length at hand), yarn (Peng et al. 2023), llama3 (Llama 3.1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    type: Literal["default", "linear", "dynamic", "yarn", "llama3"] = Field(
        description="Kind of scaling; default for none."
    )
    factor: float | None = Field(
        default=None, ge=1, description="By how much; if left out, context / original context."
    )
    original_context: int | None = Field(
        default=None, ge=1, description="Context of the pretraining, in tokens; from the config."
    )
    beta_fast: float = Field(default=32.0, description="yarn: rotations above which none scales.")
    beta_slow: float = Field(default=1.0, description="yarn: rotations below which all scale.")
    truncate: bool = Field(default=True, description="yarn: round the range to whole dimensions.")
    attention_factor: float | None = Field(
        default=None, gt=0, description="yarn: scale of cos and sin; from the factor if left out."
    )
    mscale: float | None = Field(default=None, description="yarn: numerator of that scale.")
    mscale_all_dim: float | None = Field(default=None, description="yarn: its denominator.")
    low_freq_factor: float | None = Field(default=None, gt=0, description="llama3: published: 1.")
    high_freq_factor: float | None = Field(default=None, gt=0, description="llama3: published: 4.")


def sequence_settings(
    sites: Sequence[Site],
    patient: Patient,
    scaling: Scaling | None,
    context: int | None,
    layer_type: str | None,
) -> dict[str, Any]:
    """Give what the configuration must say for a scaling and a context, by dotted key.

    Args:
        sites: what is selected.
        patient: what is operated on.
        scaling: the scaling, or None to keep it.
        context: longest sequence in tokens, or None to keep it, or to follow the factor.
        layer_type: the kind of layers that is meant, where each kind has a table of its own.

    Raises:
        RefusedError: there is no single 1-d table, or the options contradict it or each other.
    """
    key, part = _part(sites, patient)
    table = part.rope_parameters
    kinds = [name for name, value in table.items() if isinstance(value, Mapping)]
    if (layer_type is None) == bool(kinds) or (kinds and layer_type not in kinds):
        wanted = f"one of {', '.join(kinds)}" if kinds else "none: all layers share one table"
        raise RefusedError("rope.layer_type", wanted, str(layer_type))
    if scaling is None:
        return {joined(key, "max_position_embeddings"): context}
    inner = dict(table[layer_type] if layer_type else table)
    made, longest = _scaled(inner, part, scaling, context)
    whole = {**table, layer_type: made} if layer_type else made
    found = {joined(key, "rope_parameters"): whole}
    return {**found, joined(key, "max_position_embeddings"): longest} if longest else found


def _part(sites: Sequence[Site], patient: Patient) -> tuple[str, Any]:
    """Give key and part of the configuration that describes the one 1-d table."""
    used = parts_used(sites, patient) if patient.config is not None else {}
    found = {k: p for k, p in used.items() if _is_sequence(stated(p, "rope_parameters"))}
    if len(found) != 1:
        names = ", ".join(joined(key, "rope_parameters") for key in found) or "none"
        raise RefusedError(
            "rope",
            "one set of rope_parameters in the configuration of what is selected",
            names,
            "select one tower with `at: {path: ...}`" if found else "",
        )
    return next(iter(found.items()))


def _is_sequence(table: Any) -> bool:
    return isinstance(table, Mapping) and bool(table) and table.get("rope_type") != "axial"


def _scaled(
    table: Mapping[str, Any], part: Any, scaling: Scaling, context: int | None
) -> tuple[dict[str, Any], int | None]:
    """Give the table's new parameters, and the context that goes with them."""
    kept = {key: value for key, value in table.items() if key not in _OF_SCALING}
    made: dict[str, Any] = {**kept, "rope_type": scaling.type, **_own(scaling)}
    original = _original(table, part, scaling)
    if scaling.type == "default":
        return made, context
    if scaling.type == "dynamic":
        _check_dynamic(scaling, context)
        return {**made, "factor": scaling.factor}, original
    factor, longest = _factor(scaling.factor, context, original)
    made["factor"] = factor
    if scaling.type != "linear":
        made["original_max_position_embeddings"] = original
    return made, longest


def _original(table: Mapping[str, Any], part: Any, scaling: Scaling) -> int:
    known = table.get("original_max_position_embeddings") or part.max_position_embeddings
    return int(scaling.original_context or known)


def _factor(factor: float | None, context: int | None, original: int) -> tuple[float, int]:
    """Give factor and context, one of which may follow from the other."""
    if factor is None and context is None:
        raise RefusedError("rope.scaling.factor", "a factor or a context", "neither")
    if context is not None and context < original:
        raise RefusedError(
            "rope.context", f"at least the {original} tokens that were trained", str(context),
            "scaling is for longer texts: give `context` without `scaling`, or state what was "
            "trained as `original_context`",
        )  # fmt: skip
    if factor is None:
        factor = (context or 0) / original
    longest = context or round(factor * original)
    if longest > factor * original * 1.000001:
        raise RefusedError(
            "rope.scaling.factor",
            f"at least {longest / original:g}, for {longest} tokens where {original} were trained",
            f"{factor:g}",
            "leave the factor out, and it follows from the context",
        )
    return float(factor), longest


def _check_dynamic(scaling: Scaling, context: int | None) -> None:
    if scaling.factor is None or context is not None:
        raise RefusedError(
            "rope",
            "a factor and no context: dynamic scaling follows the length at hand, and measures "
            "it by the pretraining's context in max_position_embeddings",
            "no factor" if scaling.factor is None else f"context {context}",
        )


def _own(scaling: Scaling) -> dict[str, Any]:
    """Give the options of the scaling's own kind that are set.

    Raises:
        RefusedError: an option of another kind is set, or one of its own is missing.
    """
    own = _OWN.get(scaling.type, ())
    foreign = [n for names in _OWN.values() for n in names if n not in own]
    fields = Scaling.model_fields
    wrong = sorted(name for name in foreign if getattr(scaling, name) != fields[name].default)
    if wrong:
        raise RefusedError("rope.scaling", f"options of {scaling.type}", ", ".join(wrong))
    found = {name: getattr(scaling, name) for name in own}
    if scaling.type == "llama3" and None in found.values():
        raise RefusedError(
            "rope.scaling",
            "low_freq_factor and high_freq_factor",
            ", ".join(f"{name} = {value}" for name, value in found.items()),
            "Llama 3.1 was published with 1.0 and 4.0",
        )
    return {name: value for name, value in found.items() if value is not None}
