"""What one plugin offers: its hooks registered, called and their results checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pluggy

from surgery.errors import did_you_mean
from surgery.hooks import specs
from surgery.hooks.discover import Fault, Plugin, fault, guarded

_NAME = re.compile(r"[a-z][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that a plugin offers.

    Attributes:
        kind: ``surgery``, ``source``, ``family``, ``objective`` or ``data``.
        name: what a recipe writes.
        value: the class; of a family, the object.
        plugin: name and version of the distribution.
    """

    kind: str
    name: str
    value: Any
    plugin: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of offer.

    Attributes:
        hook: the hook that gives them.
        word: what messages call it.
        wrong: says what is wrong with one of them, or None.
    """

    hook: str
    word: str
    wrong: Callable[[Any], str | None]


def offers_of(plugin: Plugin) -> tuple[tuple[Offer, ...], tuple[Fault, ...]]:
    """Register one plugin, call its hooks and check what they give.

    Each plugin has a manager of its own, so that none can wrap or replace another's hooks.
    """
    manager = pluggy.PluginManager(specs.PROJECT)
    manager.add_hookspecs(specs)
    owner = (plugin.distribution, plugin.version)
    _, reason = guarded(partial(manager.register, plugin.hooks, name=plugin.distribution))
    if reason:
        return (), (_refused(plugin, reason),)
    faults = list(_unknown_hooks(manager, owner))
    offers: list[Offer] = []
    for kind in KINDS:
        given = list(_given(manager, kind, owner))
        offers += (one for one in given if isinstance(one, Offer))
        faults += (one for one in given if isinstance(one, Fault))
    if not offers and not faults:
        faults.append(_nothing(plugin))
    return tuple(offers), tuple(faults)


def _refused(plugin: Plugin, reason: str) -> Fault:
    owner = (plugin.distribution, plugin.version)
    for name, spec in _specs().items():
        function = getattr(plugin.hooks, name, None)
        if callable(function) and _arguments(function) - _arguments(spec):
            found = f"{_definition(function)}"
            return fault(owner, f"hook {name}", f"arguments as in {name}{_signature(spec)}", found)
    return fault(owner, "its hooks", "hooks that can be registered", reason)


def _unknown_hooks(manager: pluggy.PluginManager, owner: tuple[str, str]) -> Iterator[Fault]:
    for name, hook in vars(manager.hook).items():
        if name.startswith("_") or hook.spec is not None:
            continue
        for implementation in hook.get_hookimpls():
            if not implementation.optionalhook:
                found = _definition(implementation.function)
                hint = did_you_mean(name, _specs())
                yield fault(owner, f"hook {name}", "the name of a hook", found, hint)


def _given(
    manager: pluggy.PluginManager, kind: str, owner: tuple[str, str]
) -> Iterator[Offer | Fault]:
    hook = KINDS[kind].hook
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        result, reason = guarded(implementation.function)
        if reason or not isinstance(result, Sequence) or isinstance(result, str | bytes):
            yield fault(owner, f"hook {hook}", "a sequence", reason or _shown(result))
            continue
        for number, value in enumerate(result):
            yield _checked(kind, value, f"hook {hook}: item {number}", owner)


def _checked(kind: str, value: Any, place: str, owner: tuple[str, str]) -> Offer | Fault:
    wrong, reason = guarded(lambda: KINDS[kind].wrong(value) or _misnamed(value))
    if reason or wrong:
        word = KINDS[kind].word
        wanted = f"{'an' if word[0] in 'aeiou' else 'a'} {word} that keeps its contract"
        return fault(owner, place, wanted, reason or f"{_shown(value)}, which {wrong}")
    return Offer(kind, value.name, value, owner)


def _misnamed(value: Any) -> str | None:
    name = getattr(value, "name", None)
    if not isinstance(name, str):
        return "has no name"
    return (
        None if _NAME.fullmatch(name) else f"has the name {name!r} (write 'word' or 'vendor/word')"
    )


def _no_surgery(value: Any) -> str | None:
    from surgery.operate.surgery import Surgery

    return _no_model(value, Surgery)


def _no_source(value: Any) -> str | None:
    from surgery.operate.source import Source

    return _no_model(value, Source)


def _no_initialiser(value: Any) -> str | None:
    from surgery.operate.initialiser import Initialiser

    return _no_model(value, Initialiser)


def _no_attachment(value: Any) -> str | None:
    from surgery.operate.attachment import Attachment

    return _no_model(value, Attachment)


def _no_doctor(value: Any) -> str | None:
    from surgery.operate.doctor import Doctor

    return _no_model(value, Doctor)


def _no_objective(value: Any) -> str | None:
    from surgery.operate.objective import Objective

    wrong = _no_model(value, Objective)
    if wrong or set(value.better.values()) <= {"min", "max"}:
        return wrong
    return f"says that {value.better} is better; write 'min' or 'max' for each metric"


def _no_data(value: Any) -> str | None:
    from surgery.operate.data import Data

    return _no_model(value, Data)


def _no_engine(value: Any) -> str | None:
    from surgery.operate.engine import Engine

    return _no_model(value, Engine)


def _no_model(value: Any, base: type[Any]) -> str | None:
    wrong = _no_class(value)
    if wrong:
        return wrong
    if not issubclass(value, base):
        return f"is no subclass of {base.__module__}.{base.__name__}"
    if inspect.isabstract(value):
        return f"does not define {', '.join(sorted(value.__abstractmethods__))}"
    settings = value.model_config
    loose = [key for key in ("frozen", "strict") if not settings.get(key)]
    loose += [] if settings.get("extra") == "forbid" else ["extra='forbid'"]
    return f"switches off {', '.join(loose)} in its model_config" if loose else None


def _no_family(value: Any) -> str | None:
    from surgery.operate.family import Family

    return _no_object(value, Family)


def _no_exporter(value: Any) -> str | None:
    from surgery.operate.exporter import Exporter

    return _no_object(value, Exporter)


def _no_importer(value: Any) -> str | None:
    from surgery.operate.importer import Importer

    return _no_object(value, Importer)


def _no_object(value: Any, base: type[Any]) -> str | None:
    if isinstance(value, base):
        return None
    return (
        "is a class; give an object of it" if inspect.isclass(value) else f"is no {base.__name__}"
    )


def _no_class(value: Any) -> str | None:
    return None if inspect.isclass(value) else "is no class"


KINDS: Mapping[str, Kind] = {
    "surgery": Kind("surgery_surgeries", "surgery", _no_surgery),
    "source": Kind("surgery_sources", "source", _no_source),
    "family": Kind("surgery_families", "family", _no_family),
    "initialiser": Kind("surgery_initialisers", "initialiser", _no_initialiser),
    "attachment": Kind("surgery_attachments", "attachment", _no_attachment),
    "doctor": Kind("surgery_doctors", "doctor", _no_doctor),
    "exporter": Kind("surgery_exporters", "exporter", _no_exporter),
    "importer": Kind("surgery_importers", "importer", _no_importer),
    "objective": Kind("surgery_objectives", "objective", _no_objective),
    "data": Kind("surgery_data", "data set", _no_data),
    "engine": Kind("surgery_engines", "engine", _no_engine),
}
"""The kinds of offers, by the word that ``Registry.offer`` takes."""


def _nothing(plugin: Plugin) -> Fault:
    owner = (plugin.distribution, plugin.version)
    return fault(
        owner,
        f"entry point {plugin.entry}",
        f"functions marked with @hookimpl, such as {next(iter(_specs()))}",
        "nothing that offers anything",
    )


def _specs() -> dict[str, Callable[..., object]]:
    return {kind.hook: getattr(specs, kind.hook) for kind in KINDS.values()}


def _arguments(function: Callable[..., object]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _signature(function: Callable[..., object]) -> str:
    return str(inspect.signature(function).replace(return_annotation=inspect.Signature.empty))


def _definition(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"def {getattr(function, '__name__', '?')}{_signature(function)}{place}"


def _shown(value: object) -> str:
    name = value.__qualname__ if inspect.isclass(value) else type(value).__name__
    return f"the class {name}" if inspect.isclass(value) else f"a value of type {name}"
