"""Tables that follow from a configuration of transformers, whatever its class calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery.operate.edits import Edit, Rewrite
from surgery_plugins.families.sam3.trunk import blocks
from surgery_plugins.surgeries.fresh.follow import Change, change, follow, rewrite, table_value
from surgery_plugins.surgeries.fresh.image import Size, image_settings, pair
from surgery_plugins.surgeries.fresh.settings import below

if TYPE_CHECKING:
    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient


def of_config(made: Change, sites: Sequence[Site]) -> Iterator[Edit]:
    """Give what follows from a change of the configuration, and all other tables beside it.

    Tables that stay are computed anew too: a cast may have rounded them.

    Args:
        made: the change.
        sites: where tables may change, and below.

    Raises:
        RefusedError: something else than tables must change too.
    """
    edits = list(follow(made, sites, lambda one: None, "rope"))
    yield from edits
    done = {edit.name for edit in edits if isinstance(edit, Rewrite)}
    for name in _tables(made, sites):
        if name not in done:
            new = made.model.get_buffer(name)
            yield rewrite(name, new, table_value(new), made.patient)


def _tables(made: Change, sites: Sequence[Site]) -> Iterator[str]:
    """Give the computed tables of modules like those in which anything changes, and below."""
    owners = _owners(made) or _owners(change(made.patient, _other_sizes(made)))
    kinds = {type(made.model.get_submodule(path)) for path in owners}
    paths = below(sites, made.patient.model)
    tops = [path for path, m in made.model.named_modules() if type(m) in kinds and path in paths]
    seen: dict[str, None] = {}
    for top in tops:
        for path, module in made.model.get_submodule(top).named_modules(prefix=top):
            for leaf, table in module._buffers.items():
                computed = leaf in module._non_persistent_buffers_set
                if computed and table is not None and _counts(table):
                    seen[f"{path}.{leaf}" if path else leaf] = None
    yield from seen


def _owners(made: Change) -> list[str]:
    """Give the paths of modules in which a change of the configuration changes anything."""
    names = [*made.found.attributes, *(one.name for one in made.found.tensors)]
    return [name.rpartition(".")[0] for name in names]


def _other_sizes(made: Change) -> dict[str, Any]:
    """Double every size and length that was asked for, to see which modules depend on them."""
    return {key: _doubled(value) for key, value in made.settings.items()}


def _doubled(value: Any) -> Any:
    if isinstance(value, list):
        return [_doubled(item) for item in value]
    return 2 * value if isinstance(value, int) else value


def _counts(table: Any) -> bool:
    return bool(table.is_floating_point() or table.is_complex())


def for_image(sites: Sequence[Site], patient: Patient, size: Size) -> Change:
    """Change the image size; two unequal sides in the order that the class's code reads.

    Args:
        sites: what is selected.
        patient: what is operated on.
        size: height and width in pixels.

    Raises:
        RefusedError: the sides are unequal and no table tells rows from columns.
    """
    for order in (size, size[::-1]):
        settings = image_settings(sites, patient, size)
        if order != size:
            settings = {
                k: _turned(v) if k.endswith("image_size") else v for k, v in settings.items()
            }
        made = change(patient, settings)
        if size[0] == size[1] or _has_grid(made, size):
            return made
    raise RefusedError(
        "rope.image_size",
        "a square image: nothing says in which order this model's tables read two sides",
        f"{size[0]} x {size[1]}",
        "write one number",
    )


def _turned(value: Any) -> Any:
    return value[::-1] if isinstance(value, list) else value


def _has_grid(made: Change, size: Size) -> bool:
    """Tell whether the tables that see the whole image have its rows and columns."""
    found = [block for block in blocks(made.model) if block.window == 0]
    grids = [(block.grid(), _patch(made, block.path)) for block in found]
    return bool(grids) and all(
        grid == (size[0] // patch[0], size[1] // patch[1]) for grid, patch in grids
    )


def _patch(made: Change, path: str) -> Size:
    block: Any = made.model.get_submodule(path)
    return pair(block.config.patch_size)
