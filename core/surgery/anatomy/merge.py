"""Evidence beside the trace: hints of families, then names and shapes. Disagreement is noted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from surgery.anatomy.site import Anatomy, Site

_NAMES = (
    ("attention.q", r"(^|\.)(q|query|q_proj|wq|to_q|q_lin|query_proj)$"),
    ("attention.k", r"(^|\.)(k|key|k_proj|wk|to_k|k_lin|key_proj)$"),
    ("attention.v", r"(^|\.)(v|value|v_proj|wv|to_v|v_lin|value_proj)$"),
    ("attention.qkv", r"(^|\.)(qkv|qkv_proj|query_key_value|c_attn|wqkv|in_proj|Wqkv)$"),
    ("attention.proj", r"(attn|attention)[^.]*\.(.*\.)?(o_proj|out_proj|wo|proj|dense|c_proj)$"),
    ("mlp.gate", r"(^|\.)(gate_proj|w1)$"),
    ("mlp.up", r"(^|\.)(up_proj|fc1|c_fc|w3|lin1|dense_h_to_4h)$"),
    ("mlp.down", r"(^|\.)(down_proj|fc2|w2|lin2|dense_4h_to_h)$"),
    ("head", r"(^|\.)lm_head$"),
    ("resampler", r"(^|\.)(multi_modal_projector|resampler|connector|mlp1)(\.|$)"),
)
"""What common names mean, where nothing better is known."""


def with_hints(anatomy: Anatomy, family: str, hints: Mapping[str, frozenset[str]]) -> Anatomy:
    """Add a family's roles to sites that have none; note where it contradicts the trace.

    Args:
        anatomy: what is known.
        family: the family's name.
        hints: roles by module path or parameter name.
    """
    notes = list(anatomy.notes)

    def hinted(site: Site) -> Site:
        roles = next((hints[n] for n in (*site.paths, site.parameter or "") if n in hints), None)
        if not roles:
            return site
        if site.evidence == "none":
            return replace(site, roles=roles, evidence="family")
        if not roles <= site.roles:
            notes.append(
                f"{site.path}: the forward shows {_list(site.roles)}, {family} says {_list(roles)}"
            )
        return site

    sites = tuple(map(hinted, anatomy.sites))
    return replace(anatomy, sites=sites, notes=tuple(dict.fromkeys(notes)))


def with_names(anatomy: Anatomy) -> Anatomy:
    """Give roles by name to weights of matrices and more that have none; say so in a note."""
    sites = tuple(map(_named, anatomy.sites))
    count = sum(site.evidence == "names" for site in sites)
    note = f"{count} sites have roles by their names alone; check them before you rely on them"
    return replace(anatomy, sites=sites, notes=(*anatomy.notes, *([note] if count else [])))


def _named(site: Site) -> Site:
    if site.evidence != "none" or len(site.shape) < 2:
        return site
    roles = frozenset(_roles_of(site.path))
    return replace(site, roles=roles, evidence="names") if roles else site


def _roles_of(path: str) -> Iterator[str]:
    yield from [role for role, pattern in _NAMES if re.search(pattern, path)][:1]


def _list(roles: frozenset[str]) -> str:
    return ", ".join(sorted(roles)) or "nothing"
