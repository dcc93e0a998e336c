"""A checkpoint says which plugins it needs, and in which version."""

from __future__ import annotations

from pathlib import Path

import pytest

import surgery
from surgery.errors import PluginError
from surgery.flow.files import JOURNAL, base_of, journal_in
from surgery.flow.load import replay
from surgery.flow.memory import Applied
from surgery.flow.needed import demand_plugin
from surgery.hooks.discover import Plugin
from surgery.hooks.registry import Registry, registry
from surgery.hooks.specs import hookimpl
from surgery.testing import save, with_zoo
from surgery_plugins.surgeries.freeze import Freeze
from surgery_plugins.surgeries.lora.initialisers.drawn import Gaussian


class Own(Freeze):
    """Freeze under a name of its own."""

    name = "acme/own"


class Drawn(Gaussian):
    """Draw under a name of its own."""

    name = "acme/drawn"


class _Surgeries:
    @hookimpl
    def surgery_surgeries(self) -> list[type[Freeze]]:
        return [Own]


class _Initialisers:
    @hookimpl
    def surgery_initialisers(self) -> list[type[Gaussian]]:
        return [Drawn]


STEPS = [
    {"use": "acme/own", "at": {"role": "norm"}},
    {"use": "lora", "at": {"role": "attention.q"}, "with": {"rank": 2, "init": "acme/drawn"}},
]


def known(surgeries: str = "2.1", initialisers: str = "3.0") -> Registry:
    """Give a registry with two strangers' plugins, of these versions; none of an empty one."""
    offered = {"acme-own": (surgeries, _Surgeries()), "acme-drawn": (initialisers, _Initialisers())}
    plugins = [Plugin(name, v, name, hooks) for name, (v, hooks) in offered.items() if v]
    return with_zoo(registry()).with_plugins(plugins)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    source = save("split", tmp_path / "base")
    done = surgery.apply(source.load(), STEPS, plugins=known())
    Applied(done.operation, (), base_of(source, known=known()), source).save(tmp_path / "out")
    return tmp_path / "out"


def test_the_journal_names_every_plugin_that_took_part(checkpoint: Path) -> None:
    journal = journal_in(checkpoint)
    own, lora = journal.steps
    assert (own.plugin, own.version, own.needs) == ("acme-own", "2.1", {})
    assert lora.plugin == "model-surgery"
    assert lora.needs == {"acme-drawn": "3.0"}
    assert journal.base["plugin"] == {"name": "surgery-zoo", "version": "1"}


@pytest.mark.parametrize("versions", [("2.1", "3.0"), ("2.1.1", "3.0"), ("10.0", "4.0rc1")])
def test_the_same_versions_and_later_ones_load(versions: tuple[str, str], checkpoint: Path) -> None:
    done = surgery.load(checkpoint, plugins=known(*versions))
    assert [entry.use for entry in done.journal.steps] == ["acme/own", "lora"]


@pytest.mark.parametrize(
    ("versions", "found", "install"),
    [
        (("", "3.0"), "none", "pip install 'acme-own>=2.1'"),
        (("2.0.9", "3.0"), "version 2.0.9", "pip install 'acme-own>=2.1'"),
        (("2.1", ""), "none", "pip install 'acme-drawn>=3.0'"),
        (("2.1", "3.0rc1"), "version 3.0rc1", "pip install 'acme-drawn>=3.0'"),
    ],
)
def test_a_missing_or_older_plugin_is_named_with_the_line_that_installs_it(
    versions: tuple[str, str], found: str, install: str, checkpoint: Path
) -> None:
    with pytest.raises(PluginError) as caught:
        surgery.load(checkpoint, plugins=known(*versions))
    assert caught.value.code == "plugin"
    assert JOURNAL in caught.value.where
    assert (caught.value.found, caught.value.instead) == (found, f"run: {install}")


def test_a_source_that_is_gone_is_named_too(checkpoint: Path) -> None:
    mine = [Plugin("acme-own", "2.1", "", _Surgeries())]
    without = registry().with_plugins([*mine, Plugin("acme-drawn", "3.0", "", _Initialisers())])
    with pytest.raises(PluginError, match=r"base: .*pip install 'surgery-zoo>=1'"):
        surgery.load(checkpoint, plugins=without)


def test_a_structure_is_demanded_as_weights_are(checkpoint: Path, tmp_path: Path) -> None:
    patient = surgery.testing.patient("split", device="meta")
    with pytest.raises(PluginError, match="acme-own"):
        replay(journal_in(checkpoint), patient, known(surgeries=""), checkpoint)


@pytest.mark.parametrize(
    ("name", "version", "instead"),
    [
        ("acme.py", "sha256:0123", "give the file: --plugin acme.py"),
        ("acme", "1.0+local", "run: pip install 'acme>=1.0+local'"),
    ],
)
def test_local_files_are_given_and_not_installed(name: str, version: str, instead: str) -> None:
    with pytest.raises(PluginError) as caught:
        demand_plugin(name, version, Registry(), "surgery.json")
    assert caught.value.instead == instead


def test_names_are_compared_as_distributions_are() -> None:
    spelled = Registry(plugins=(Plugin("Acme_Own", "2.1", "", None),))
    demand_plugin("acme-own", "2.1", spelled, "surgery.json")
