"""From a recipe's options to a connector on meta that fits its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from surgery.anatomy.on_device import on_device
from surgery.errors import RecipeError, RefusedError, SurgeryError
from surgery_plugins.families.hosts import Fit, fit_of
from surgery_plugins.modules.connector import Connector
from surgery_plugins.modules.mamba import MambaMixer
from surgery_plugins.surgeries.resampler.infer import Inferred, infer
from surgery_plugins.surgeries.resampler.kind import Kind, Value
from surgery_plugins.surgeries.resampler.kinds import KINDS
from surgery_plugins.surgeries.resampler.settle import Found, Sources, settle
from surgery_plugins.surgeries.resampler.stored import Stored, open_stored
from surgery_plugins.surgeries.resampler.values import check_table, shapes_of

if TYPE_CHECKING:
    from torch import nn

    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient


def fit_at(path: str, patient: Patient) -> Fit:
    """Read what a model gives its connector; of an unknown model, what the connector there shows.

    Args:
        path: the connector.
        patient: the patient, its model as it is before the operation.
    """
    fit = fit_of(patient.model, path, patient.config)
    if fit.host is not None:
        return fit
    there = _there(path, patient.model, None, {})
    enter, leave = (
        (int(there[name][0]), there[name][1]) if name in there else None
        for name in ("in_features", "out_features")
    )
    return replace(fit, in_features=enter, out_features=leave)


def settled_from_weights(
    weights: str,
    options: tuple[str | None, str | None, bool],
    recipe: Mapping[str, Value],
    fit: Fit,
) -> tuple[Kind, str, Found]:
    """Find kind, prefix and sizes of a connector whose weights are in a file; headers alone.

    Args:
        weights: file or folder.
        options: kind and prefix where the recipe gives them, and whether metadata are read.
        recipe: sizes that the recipe gives.
        fit: what the model needs.

    Raises:
        SurgeryError: sizes are unknown or disagree, or the file holds other tensors than those
            of the connector.
    """
    name, prefix, metadata = options
    stored = open_stored(weights, metadata)
    shown = stored.find(name or stored.kind(), prefix, _known(recipe, fit))
    kind = KINDS[shown.kind]
    said = stored.sizes(kind)
    known = {**_known(recipe, fit), **{n: value for n, (value, _) in said.items()}}
    shown = stored.find(kind.name, shown.prefix, known)
    found = settle(kind, Sources(said, shown, recipe, fit=fit))
    _check_file(stored, shown, kind, found)
    return kind, shown.prefix, found


def settled_fresh(
    kind: Kind, recipe: Mapping[str, Value], fit: Fit, path: str, model: nn.Module
) -> Found:
    """Find the sizes of a connector that is built anew; one of the same kind may tell some.

    Raises:
        SurgeryError: sizes are unknown or do not fit the model.
    """
    there = _there(path, model, kind, _known({}, fit))
    ends = {"in_features": fit.in_features, "out_features": fit.out_features}
    if any(told and name in there and there[name][0] != told[0] for name, told in ends.items()):
        there = {}  # its shapes only look like this kind
    if fit.host is not None and fit.host.kind == kind.name:
        there = {**there, **{n: told for n, told in fit.native.items() if n not in there}}
    return settle(kind, Sources(recipe=recipe, there=there, fit=fit))


def built(kind: Kind, sizes: Mapping[str, Value], fit: Fit, old: nn.Module) -> Connector:
    """Build a connector on meta in the dtype of the old one, and run it once on meta.

    Raises:
        RefusedError: it cannot be built with these sizes, or does not take the tower's tokens.
    """
    try:
        with on_device("meta"):
            module = kind.build(**sizes)
    except SurgeryError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise RefusedError(
            f"resampler: {kind.name}", "sizes that fit", line, "change `sizes:`"
        ) from None
    module.joined = fit.joined
    first = next((p for p in old.parameters() if p.is_floating_point()), None)
    module.to(first.dtype if first is not None else torch.get_default_dtype())
    for part in module.modules():
        if isinstance(part, MambaMixer):
            part.keep_wide()
    _run_on_meta(module, fit)
    return module


def _run_on_meta(module: Connector, fit: Fit) -> None:
    if fit.tokens is None:
        return
    wanted = (1, module.out_tokens(fit.tokens), module.out_features)
    joined = fit.joined**2
    shape = (1, fit.tokens // joined, module.in_features * joined)
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        found = tuple(module(torch.empty(shape, dtype=dtype, device="meta")).shape)
    if found != wanted:
        raise RefusedError("resampler", f"an output of shape {wanted}", f"{found}")


def only(sites: Sequence[Site]) -> str:
    """Give the path of the one site.

    Raises:
        RefusedError: there are several.
    """
    if len(sites) != 1:
        paths = ", ".join(site.path for site in sites[:5])
        raise RefusedError(
            "resampler", "one connector", f"{len(sites)}: {paths}", "write one step for each"
        )
    return sites[0].path


def demand_kind(name: str | None) -> Kind:
    """Give the kind of a name.

    Raises:
        RecipeError: there is no name.
    """
    if name is None:
        raise RecipeError(
            "resampler.kind", "a kind", "neither kind nor weights", f"one of {', '.join(KINDS)}"
        )
    return KINDS[name]


def _there(path: str, model: nn.Module, kind: Kind | None, known: Mapping[str, Value]) -> Found:
    """Give the sizes that the connector in the model shows, where it is of one kind."""
    shapes = shapes_of(model.get_submodule(path))
    shown = infer(shapes, kind=kind.name if kind else None, prefix="", known=known)
    if len(shown) != 1:
        return {}
    why = f"the connector that is there, shape of {path}."
    return {name: (value, why + tensor) for name, (value, tensor) in shown[0].sizes.items()}


def _known(recipe: Mapping[str, Value], fit: Fit) -> dict[str, Value]:
    ends = {"in_features": fit.in_features, "out_features": fit.out_features}
    return {**{n: told[0] for n, told in ends.items() if told}, **recipe}


def _check_file(stored: Stored, shown: Inferred, kind: Kind, found: Found) -> None:
    sizes = {name: value for name, (value, _) in found.items()}
    with on_device("meta"):
        wanted = shapes_of(kind.build(**sizes))
    check_table(shown.shapes(stored.shapes), wanted, str(stored.path))
