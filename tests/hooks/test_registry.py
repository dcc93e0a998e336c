from __future__ import annotations

from pathlib import Path

import pytest

from surgery.anatomy.site import ROLES
from surgery.errors import PluginError
from surgery.hooks import registry as module
from surgery.hooks.discover import DISABLE
from surgery.hooks.registry import Registry, registry
from tests.hooks.fakes import distribution, good

HEAD = """
from abc import ABC
from typing import ClassVar
from surgery.hooks.specs import hookimpl
from surgery.operate.surgery import Surgery
from surgery.operate.source import Source
from surgery.operate.family import Family

class Fine(Surgery):
    name: ClassVar[str] = "acme/fine"
    def refuse(self, site): return None
    def operate(self, sites, patient): return ()

"""


def hooked(code: str, hook: str = "surgery_surgeries", give: str = "[Thing]") -> str:
    return f"{HEAD}\n{code}\n@hookimpl\ndef {hook}(): return {give}\n"


def faults(found: Registry, name: str = "acme") -> list[str]:
    return [str(f.error) for f in found.faults if f.distribution.startswith(name)]


def test_an_offer_carries_the_distribution_that_makes_it(site: Path) -> None:
    distribution(site, "acme", good("acme/one"), version="3.1")
    found = registry(environment={})
    cls = found.surgery("acme/one")
    assert cls(factor=2.0).factor == 2.0
    assert found.offer("surgery", "acme/one").plugin == ("acme", "3.1")
    assert found.owner("surgery", cls) == ("acme", "3.1")
    assert found.owner("surgery", Registry) == ("", "")
    assert "acme/one" in found.names("surgery")


def test_entry_points_are_read_once_in_a_process(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(module, "discover", lambda env: (calls.append(env), ((), ()))[1])
    assert registry(environment={}) is not None
    assert registry(environment={}).plugins == registry(environment={}).plugins == ()
    assert calls == [{DISABLE: ""}]


def test_every_kind_of_offer_is_found_by_name(site: Path) -> None:
    code = (
        HEAD
        + """
class Src(Source):
    name: ClassVar[str] = "acme-src"
    def build(self): ...
    def load(self): ...
    def weights(self): return {}
    def companions(self): return {}
class Fam(Family):
    name = "acme-fam"
    roles = ("acme.role",)
    def matches(self, model): return False
from surgery.operate.objective import Objective
from surgery.operate.data import Data
class Goal(Objective):
    name: ClassVar[str] = "acme-thing"
    def encode(self, sample, patient, random): return {}
    def collate(self, encoded, patient): return {}
    def weight(self, batch): return 1.0
    def step(self, model, batch): ...
class Rows(Data):
    name: ClassVar[str] = "acme-thing"
    def open(self): return []
fam = Fam()
@hookimpl
def surgery_sources(): return (Src,)
@hookimpl
def surgery_families(): return [fam]
@hookimpl
def surgery_objectives(): return [Goal]
@hookimpl
def surgery_data(): return [Rows]
"""
    )
    distribution(site, "acme", code)
    found = registry(environment={})
    assert faults(found) == []
    assert found.source("acme-src").name == "acme-src"
    assert found.objective("acme-thing").__name__ == "Goal"
    assert found.data("acme-thing")(weight=2.0).weight == 2.0
    assert "acme-fam" in [family.name for family in found.families()]
    assert found.roles()[: len(ROLES)] == ROLES
    assert found.roles()[-1] == "acme.role"


def test_a_clash_names_both_distributions_only_when_the_name_is_asked_for(site: Path) -> None:
    distribution(site, "acme", good("scale"), version="1.0")
    distribution(site, "bolt", good("scale"), version="2.0")
    distribution(site, "acme-other", good("acme/other"))
    found = registry(environment={})
    assert found.surgery("acme/other").name == "acme/other"
    for attempt in (lambda: found.surgery("scale"), lambda: _raise(found.clashes()[0])):
        with pytest.raises(PluginError) as caught:
            attempt()
        assert "acme 1.0" in str(caught.value)
        assert "bolt 2.0" in str(caught.value)


def _raise(error: PluginError) -> None:
    raise error


def test_one_plugin_that_offers_a_name_twice_clashes_with_itself(site: Path) -> None:
    distribution(site, "acme", good("acme/x").replace("[Scale]", "[Scale, Scale]"))
    with pytest.raises(PluginError, match="got 2 of acme"):
        registry(environment={}).surgery("acme/x")


def test_an_unknown_name_suggests_the_near_one_and_mentions_what_is_broken(site: Path) -> None:
    distribution(site, "acme", good("acme/scale"))
    distribution(site, "acme-bad", "raise ImportError", version="9.9")
    with pytest.raises(PluginError) as caught:
        registry(environment={}).surgery("acme/skale")
    assert "did you mean 'acme/scale'" in str(caught.value)
    assert "acme-bad 9.9" in str(caught.value)


def test_an_unknown_name_is_silent_on_faults_where_there_are_none() -> None:
    with pytest.raises(PluginError) as caught:
        Registry().surgery("x")
    assert "broken" not in str(caught.value)


def test_a_hook_that_does_not_exist_is_reported_with_plugin_hook_and_definition(
    site: Path,
) -> None:
    distribution(site, "acme", hooked("", "surgery_surgerys", "[Fine]"), version="1.1")
    (text,) = faults(registry(environment={}))
    assert text.startswith("plugin acme 1.1: hook surgery_surgerys: expected the name of a hook")
    assert "def surgery_surgerys()" in text
    assert "acme_module.py:" in text
    assert "did you mean 'surgery_surgeries'" in text


def test_a_hook_with_other_arguments_is_reported_with_its_definition(site: Path) -> None:
    code = HEAD + "@hookimpl\ndef surgery_surgeries(model, depth): return [Fine]\n"
    distribution(site, "acme", code)
    (text,) = faults(registry(environment={}))
    assert "hook surgery_surgeries: expected arguments as in surgery_surgeries()" in text
    assert "def surgery_surgeries(model, depth)" in text


@pytest.mark.parametrize(
    ("give", "reason"),
    [
        ("None", "a value of type NoneType"),
        ("'lora'", "a value of type str"),
        ("{Fine}", "a value of type set"),
        ("(x for x in [Fine])", "a value of type generator"),
        ("Fine", "the class Fine"),
        ("1 / 0", "ZeroDivisionError"),
        ("exit(3)", "SystemExit: 3"),
        ("[3]", "item 0"),
        ("[Fine()]", "which is no class"),
        ("[int]", "the class int, which is no subclass of surgery.operate.surgery.Surgery"),
    ],
)
def test_rubbish_from_a_hook_is_reported_by_distribution(
    site: Path, give: str, reason: str
) -> None:
    distribution(site, "acme", hooked("", give=give))
    distribution(site, "acme-good", good("acme/good"))
    found = registry(environment={})
    (text,) = faults(found)
    assert text.startswith("plugin acme 1.0: hook surgery_surgeries")
    assert reason in text
    assert found.surgery("acme/good")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class Thing(Surgery):\n  name: ClassVar[str] = 'acme/x'", "does not define operate, ref"),
        ("class Thing(Fine):\n  name: ClassVar[str] = ''", "has the name ''"),
        ("class Thing(Fine):\n  name: ClassVar[str] = 'A b'", "has the name 'A b'"),
        ("class Thing(Fine):\n  name: ClassVar[str] = 'a/b/c'", "has the name 'a/b/c'"),
        ("class Thing(Fine):\n  name: ClassVar[int] = 3", "has no name"),
        (
            "class Thing(Surgery):\n  def refuse(self, s): ...\n  def operate(self, s, p): ...",
            "has no name",
        ),
        ("class Thing(Fine):\n  model_config = {'extra': 'allow'}", "switches off extra='forbid'"),
        ("class Thing(Fine):\n  model_config = {'strict': False}", "switches off strict"),
    ],
)
def test_a_class_that_breaks_the_contract_is_reported_and_its_siblings_serve(
    site: Path, code: str, reason: str
) -> None:
    distribution(site, "acme", hooked(code, give="[Thing, Fine]"))
    found = registry(environment={})
    (text,) = faults(found)
    assert "hook surgery_surgeries: item 0" in text
    assert reason in text
    assert found.surgery("acme/fine").__name__ == "Fine"


def test_a_family_given_as_a_class_is_reported(site: Path) -> None:
    code = "class Fam(Family):\n  name = 'f'\n  def matches(self, model): return True"
    distribution(site, "acme", hooked(code, "surgery_families", "[Fam]"))
    assert "is a class; give an object of it" in faults(registry(environment={}))[0]


def test_a_plugin_without_any_marked_hook_is_reported(site: Path) -> None:
    distribution(site, "acme", HEAD + "def surgery_surgeries(): return [Fine]\n")
    assert "expected functions marked with @hookimpl" in faults(registry(environment={}))[0]


def test_a_plugin_cannot_wrap_the_hooks_of_another(site: Path) -> None:
    wrapper = HEAD + "@hookimpl(wrapper=True)\ndef surgery_surgeries():\n  yield\n  return []\n"
    distribution(site, "acme", wrapper)
    distribution(site, "acme-good", good("acme/good"))
    found = registry(environment={})
    assert found.surgery("acme/good")
    assert "a value of type generator" in faults(found)[0]


def test_local_plugins_join_the_installed_ones(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(good("mine"))
    distribution(site, "acme", good("acme/one"))
    found = registry([file], {})
    assert found.offer("surgery", "mine").plugin[0] == "mine.py"
    assert found.surgery("acme/one")
    assert "mine" not in registry(environment={}).names("surgery")


def test_a_local_plugin_with_a_fault_is_an_error_at_once(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(hooked("", "surgery_surgerys"))
    with pytest.raises(PluginError, match="hook surgery_surgerys"):
        registry([file], {})


def test_versions_name_broken_distributions_too(site: Path) -> None:
    distribution(site, "acme", good("acme/one"), version="1.5")
    distribution(site, "acme-bad", "raise ImportError", version="2.5")
    versions = registry(environment={}).versions()
    assert (versions["acme"], versions["acme-bad"]) == ("1.5", "2.5")
