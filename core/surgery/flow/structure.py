"""Build whatever a command line names; no weight is read unless it is asked for."""

from __future__ import annotations

from pathlib import Path

from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.urls import is_url
from surgery.errors import PatientError, RecipeError, did_you_mean
from surgery.flow.files import JOURNAL, has_journal, journal_in
from surgery.flow.load import load, replay, source_of
from surgery.hooks.registry import Registry
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.recipe.messages import checked
from surgery.recipe.nodes import node_of
from surgery.recipe.read import read_recipe
from surgery.recipe.shipped import shipped


def build_structure(given: str, known: Registry, *, weights: bool = False) -> Patient:
    """Build the structure of a model on meta, or the model with its weights.

    Args:
        given: a folder with a model, or one that ``surgery apply`` wrote, or the URL of one;
            ``SOURCE:NAME``, such as a source's packaged model; a recipe file; or the name of a
            shipped recipe.
        known: what the plugins offer.
        weights: True to read the weights too.

    Raises:
        SurgeryError: nothing of the kind is there, or it cannot be built.
    """
    if is_url(given) and not has_journal(given):
        return _of_source(source_given(given, known), weights)
    path = fetched(given)
    if path.is_dir():
        return _of_folder(path, known, weights)
    if given.partition(":")[0] in known.names("source") and ":" in given:
        return _of_source(source_given(given, known), weights)
    if path.is_file() or given in shipped():
        return _of_recipe(str(path) if path.is_file() else given, known, weights)
    names = [*shipped(), *(f"{source}:" for source in known.names("source"))]
    raise PatientError(
        given,
        "a folder with a model, SOURCE:NAME or a recipe",
        "nothing of that name",
        did_you_mean(given, names),
    )


def _of_source(source: Source, weights: bool) -> Patient:
    return source.load() if weights else source.build()


def _of_folder(folder: Path, known: Registry, weights: bool) -> Patient:
    """Build what a folder holds: the base, or what was made of it."""
    if (folder / JOURNAL).is_file() and weights:
        return load(folder, plugins=known).patient
    if (folder / JOURNAL).is_file():
        journal = journal_in(folder)
        base = source_of(journal.base, folder, None, known).build()
        return replay(journal, base, known, folder).patient
    return _of_source(source_given(str(folder), known), weights)


def source_given(given: str, known: Registry) -> Source:
    """Give the source that reads a folder, or the one of ``SOURCE:NAME``.

    Args:
        given: a folder, or ``SOURCE:NAME``, such as a source's packaged model.
        known: what the plugins offer.

    Raises:
        PluginError: nobody offers the source.
        PatientError: no source, or more than one, reads folders.
    """
    name, colon, option = given.partition(":")
    if colon and not is_url(given) and not Path(given).exists():
        return _source(known.source(name), option, given)
    readers = [name for name in known.names("source") if _reads_any(known.source(name))]
    if len(readers) != 1:
        found = f"{len(readers)} sources that can: {', '.join(readers) or 'none'}"
        raise PatientError(given, "one source that reads folders", found, "write SOURCE:PATH")
    return _source(known.source(readers[0]), given, given)


def _of_recipe(recipe: str, known: Registry, weights: bool) -> Patient:
    found = read_recipe(recipe, registry=known)
    if found.patient is None:
        raise RecipeError(f"{found.name}: patient", "a source", "nothing", "name a folder instead")
    return _of_source(found.patient, weights)


def _reads_any(source: type[Source]) -> bool:
    """Tell whether a source reads any folder that it is given."""
    return _option(source) == "path" and not source.explicit


def _option(source: type[Source]) -> str | None:
    """Give the one option that names a source's model: ``path``, or the only required one."""
    fields = source.model_fields
    needed = [name for name, one in fields.items() if one.is_required()]
    return "path" if "path" in fields else needed[0] if len(needed) == 1 else None


def _source(source: type[Source], text: str, given: str) -> Source:
    name = _option(source)
    if name is None:
        raise PatientError(given, "a source with one option", source.name, "write a recipe")
    made, problems = checked(source, node_of({name: text}), (given,))
    if made is None or problems:
        raise problems[0][1]
    return made
