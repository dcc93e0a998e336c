from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from surgery.cli import app, main
from surgery.cli.session import Session, common
from surgery.errors import IntegrityError, LockedError, PluginError, Problems, RecipeError
from tests.cli.conftest import Run

RAISED: list[BaseException] = []


@click.command()
@common
def failing(session: Session) -> None:
    """Raise what the test wants."""
    raise RAISED[0]


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(app.COMMANDS, "failing", (f"{__name__}:failing", "Fail."))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    yield
    RAISED.clear()


def fail(error: BaseException, *arguments: str) -> int:
    RAISED[:] = [error]
    return main(["failing", *arguments])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PluginError("a", "b", "c"), 1),
        (RecipeError("a", "b", "c"), 2),
        (Problems("r", [RecipeError("a", "b", "c"), PluginError("d", "e", "f")]), 2),
        (IntegrityError("a", "b", "c"), 4),
        (LockedError("a", "b", "c"), 5),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (ValueError("boom\nsecond line"), 1),
        (RecursionError(), 1),
        (PermissionError(13, "Permission denied", "/some/file"), 1),
        (click.UsageError("wrong"), 2),
    ],
)
def test_every_failure_has_its_status_and_one_clear_message(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    assert fail(error) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.strip().startswith("surgery: ")
    assert len(err.strip().splitlines()) == (2 if isinstance(error, Problems) else 1)


def test_an_unexpected_error_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(ValueError("boom")) == 1
    assert "unexpected ValueError: boom; run again with --traceback" in capsys.readouterr().err


def test_traceback_lets_the_error_out() -> None:
    with pytest.raises(ValueError, match="boom"):
        fail(ValueError("boom"), "--traceback")


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        (
            Problems("r", [RecipeError("a", "b", "c"), PluginError("d", "e", "f")]),
            ["recipe", "plugin"],
        ),
        (IntegrityError("a", "b", "c"), ["integrity"]),
        (ValueError("boom"), ["unexpected"]),
        (KeyboardInterrupt(), ["interrupted"]),
        (click.UsageError("wrong"), ["usage"]),
    ],
)
def test_with_json_stdout_is_one_object_that_lists_the_errors(
    capsys: pytest.CaptureFixture[str], error: BaseException, codes: list[str]
) -> None:
    fail(error, "--json")
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["ok"] is False
    assert [one["code"] for one in answer["errors"]] == codes
    assert err.strip().startswith("surgery: ")


def test_hostile_names_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "w\x1b]0;owned\x07\x9b2J\u202e.weight"
    fail(PluginError(name, "b", "c"), "--json")
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "w\\x1b]0;owned\\x07" in err
    assert json.loads(out)["errors"][0]["where"] == name


@pytest.mark.parametrize("arguments", [["plugins", "--bad"], ["nope"], ["plugins", "extra"], []])
def test_usage_errors_end_with_status_2(surgery_command: Run, arguments: list[str]) -> None:
    done = surgery_command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_mistyped_command_gets_a_suggestion(surgery_command: Run) -> None:
    done = surgery_command("pluginz")
    assert "No such command 'pluginz'. Did you mean 'plugins'?" in done.stderr


def test_ctrl_c_while_it_is_imported_is_one_line() -> None:
    code = (
        "import sys, signal, os\n"
        "def hook(event, given):\n"
        "    if event == 'import' and given[0] == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from surgery.cli import main\n"
        "sys.addaudithook(hook)\n"
        "sys.exit(main(['--help']))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "surgery: interrupted\n")


def test_a_reader_that_goes_away_is_no_error_message(surgery_command: Run) -> None:
    code = "import sys; from surgery.cli import main; sys.exit(main(['schema', '-q']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1
    process.stderr.close()


def test_no_colour_codes_reach_a_pipe(surgery_command: Run) -> None:
    for arguments in (["--help"], ["plugins"], ["recipes"], ["nope"]):
        done = surgery_command(*arguments, NO_COLOR="1")
        assert "\x1b" not in done.stdout + done.stderr


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        expected = version("model-surgery")
    except PackageNotFoundError:
        expected = ""
    status = main(["--version"])
    out, err = capsys.readouterr()
    assert (status == 0 and expected in out) or (not expected and status == 1 and err)
