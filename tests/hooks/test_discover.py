from __future__ import annotations

import sys
from pathlib import Path

import pytest

from surgery.errors import PluginError
from surgery.hooks.discover import DISABLE, discover, load_file, normal_name
from tests.hooks.fakes import distribution, good


def mine(environment: dict[str, str] | None = None) -> tuple[list[str], dict[str, str]]:
    plugins, faults = discover(environment or {})
    return (
        [f"{p.distribution} {p.version}" for p in plugins if p.distribution.startswith("acme")],
        {f.distribution: str(f.error) for f in faults if f.distribution.startswith("acme")},
    )


def test_an_entry_point_of_the_group_is_loaded_with_name_and_version(site: Path) -> None:
    distribution(site, "acme-one", good("acme/one"), version="1.2.3")
    assert mine() == (["acme-one 1.2.3"], {})


def test_entry_points_of_other_groups_are_not_even_imported(site: Path) -> None:
    distribution(site, "acme-one", "raise SystemExit(3)", group="surgery_other")
    assert mine() == ([], {})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('no acme today')", "ImportError: no acme today"),
        ("import sys; sys.exit(7)", "SystemExit: 7"),
        ("raise BaseException", "BaseException"),
        ("import module_that_is_not_there", "No module named 'module_that_is_not_there'"),
        ("def broken(:", "SyntaxError"),
        (b"\xff\xfe\x00", "SyntaxError"),
        ("x = 1 / 0  # two\n", "ZeroDivisionError: division by zero"),
        ("raise ValueError('first line\\nsecond line')", "ValueError: first line"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_and_others_go_on(
    site: Path, code: str | bytes, reason: str
) -> None:
    distribution(site, "acme-bad", code, version="0.1")
    distribution(site, "acme-good", good("acme/good"))
    names, faults = mine()
    assert names == ["acme-good 1.0"]
    assert reason in faults["acme-bad"]
    assert faults["acme-bad"].startswith("plugin acme-bad 0.1: entry point main")
    assert "second line" not in faults["acme-bad"]
    assert f"{DISABLE}=acme-bad" in faults["acme-bad"]


def test_ctrl_c_during_an_import_still_interrupts(site: Path) -> None:
    distribution(site, "acme-slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover({})


def test_what_a_plugin_prints_on_import_does_not_reach_stdout(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distribution(site, "acme-loud", "print('hello')\n" + good("acme/loud"))
    assert mine()[0] == ["acme-loud 1.0"]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_a_distribution_without_readable_metadata_is_a_fault_or_works_but_never_raises(
    site: Path,
) -> None:
    distribution(site, "acme-good", good("acme/good"))
    for name, content in (("half", b"[surgery\nx = "), ("binary", b"[surgery]\n\xff\xfe=1")):
        info = site / f"acme_{name}-1.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_bytes(content)
    assert mine()[0] == ["acme-good 1.0"]


def test_a_disabled_distribution_is_not_imported(site: Path) -> None:
    distribution(site, "acme-one", "raise SystemExit(1)")
    distribution(site, "acme-two", good("acme/two"))
    assert mine({DISABLE: " Acme_One , other"}) == (["acme-two 1.0"], {})
    assert "acme_one_module" not in sys.modules


def test_the_first_of_two_copies_of_a_distribution_counts(site: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    later.mkdir()
    sys.path.append(str(later))
    try:
        distribution(site, "acme-one", good("acme/one"), version="2.0")
        distribution(later, "acme_one", good("acme/one"), version="1.0")
        assert mine()[0] == ["acme-one 2.0"]
    finally:
        sys.path.remove(str(later))


def test_names_of_distributions_are_compared_in_normal_form() -> None:
    assert normal_name(" Acme_Lora.X") == normal_name("acme-lora-x")


def test_a_local_file_is_a_plugin_with_its_digest_as_version(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(good("mine"))
    plugin = load_file(file)
    assert (plugin.distribution, plugin.entry) == ("mine.py", str(file))
    assert plugin.version.startswith("sha256:")
    assert load_file(file).hooks is plugin.hooks


def test_two_local_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(good("mine"))
    first, second = (load_file(tmp_path / folder / "mine.py") for folder in ("a", "b"))
    assert first.hooks is not second.hooks


@pytest.mark.parametrize(
    ("name", "code"),
    [("x.py", "raise SystemExit(2)"), ("x.py", "def f(:"), ("x.txt", "a = 1"), ("x.py", None)],
)
def test_a_local_file_that_cannot_be_loaded_is_one_clear_error(
    tmp_path: Path, name: str, code: str | None
) -> None:
    file = tmp_path / name
    if code is not None:
        file.write_text(code)
    with pytest.raises(PluginError, match=r"--plugin .*x\.") as caught:
        load_file(file)
    assert "\n" not in str(caught.value)
    assert not [m for m in sys.modules if m.startswith("surgery_local_") and "x" in m[-1:]]


def test_a_folder_as_local_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="expected a Python file"):
        load_file(tmp_path)
