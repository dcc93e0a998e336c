"""How attention is computed, by the configurations that modules hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery.operate.edits import Edit, SetAttribute, SetConfig
from surgery_plugins.surgeries.fresh.settings import below, joined, parts, parts_used

if TYPE_CHECKING:
    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient

KEY = "_attn_implementation_internal"
"""Where a configuration of transformers holds it; it is no value that is saved."""


def set_attention(name: str, sites: Sequence[Site], patient: Patient) -> Iterator[Edit]:
    """Give the edits that make towers compute attention otherwise.

    Args:
        name: as transformers names it.
        sites: modules of the towers.
        patient: what is operated on.

    Raises:
        RefusedError: a class does not support it, modules that are not selected would follow, or
            all compute it so already.
    """
    _check(name, sites, patient)
    _check_all(sites, patient)
    edits = [*_of_parts(name, sites, patient), *_of_copies(name, sites, patient)]
    if not edits:
        raise RefusedError("swap.attention", "another way than the present one", repr(name))
    yield from edits


def _of_parts(name: str, sites: Sequence[Site], patient: Patient) -> Iterator[Edit]:
    for key, part in parts_used(sites, patient).items():
        if vars(part).get(KEY) != name:
            yield SetConfig(joined(key, KEY), name)


def _of_copies(name: str, sites: Sequence[Site], patient: Patient) -> Iterator[Edit]:
    """Give the edits of configurations that modules hold for themselves, each once."""
    done = {id(part) for _, part in parts(patient.config)}
    for path, module in below(sites, patient.model).items():
        held = vars(module).get("config")
        if hasattr(held, "to_dict") and id(held) not in done:
            done.add(id(held))
            if vars(held).get(KEY) != name:
                yield SetAttribute(joined(path, "config", KEY), name)


def _check(name: str, sites: Sequence[Site], patient: Patient) -> None:
    """Check that the classes at and around the sites support a way.

    Raises:
        RefusedError: one does not.
    """
    found = list(_models(sites, patient))
    if not found:
        raise RefusedError("swap.attention", "models of transformers at the sites", "none")
    for path, model in found:
        where = f"swap.attention: {path or type(model).__name__}"
        if not model._can_set_attn_implementation():
            raise RefusedError(where, "a class that can change it", "one that chose when built")
        try:
            applied = model.get_correct_attn_implementation(name)
        except (ValueError, ImportError) as error:
            told = " ".join(str(error).split())[:300]
            raise RefusedError(where, "a way that the class supports", told) from None
        if applied != name:
            raise RefusedError(where, repr(name), f"{applied!r}, which the class takes instead")


def _check_all(sites: Sequence[Site], patient: Patient) -> None:
    """Check that no module like those at the sites reads the same configuration from elsewhere.

    Raises:
        RefusedError: one does; it would change too.
    """
    inside = below(sites, patient.model)
    mine = {(type(m), id(vars(m)["config"])) for m in inside.values() if "config" in vars(m)}
    for path, module in patient.model.named_modules():
        held = (type(module), id(vars(module).get("config")))
        if path not in inside and held in mine:
            raise RefusedError(
                "swap.attention", "all modules that one configuration speaks for",
                f"some of them: {path} reads the same, and is not selected",
                "select it too; how attention is computed is a choice for a tower, not for layers",
            )  # fmt: skip


def _models(sites: Sequence[Site], patient: Patient) -> Iterator[tuple[str, Any]]:
    """Give the models of transformers whose configuration the sites use."""
    used = {id(part) for part in parts_used(sites, patient).values()}
    inside = below(sites, patient.model)
    for path, module in patient.model.named_modules():
        about = path in inside or id(vars(module).get("config")) in used
        if about and hasattr(module, "get_correct_attn_implementation"):
            yield path, module
