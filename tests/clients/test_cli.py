"""The `kshot` command itself: finding commands, telling what they need, turning errors into one line."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kshot
from kshot._cli import main

Install = Callable[..., Path]


def command(run: str = "return 0", *, extra: str = "", top: str = "") -> str:
    """The source of a command module."""
    return f"""
import argparse, sys
from kshot import KshotError
{top}
HELP, EXTRA = "do something odd", {extra!r}
def configure(parser):
    parser.add_argument("--size", type=int)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("name", nargs="?")
    parser.add_argument("settings", nargs="*")
def run(arguments):
    {run}
"""


@pytest.fixture
def install(install_entry_point: Install) -> Callable[..., None]:
    """A function that installs a command `odd`."""

    def installed(*arguments: str, **keywords: str) -> None:
        install_entry_point("kshot.commands", "odd = odd_command", odd_command=command(*arguments, **keywords))

    return installed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kshot {kshot.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_overview_lists_every_command_with_its_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str], install: Callable[..., None]
) -> None:
    install()
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    names = ("adapt", "classify", "demo", "models", "odd", "sessions", "serve", "train")
    rows = [re.search(rf"\n  {name} +", shown) for name in names]
    assert all(rows)
    assert len({len(row[0]) for row in rows if row}) == 1  # one column, as wide as the longest name needs
    assert re.search(r"  odd +do something odd\n", shown)


def test_a_command_runs_and_answers_the_exit_code(install: Callable[..., None]) -> None:
    install("return arguments.size")
    assert main(["odd", "--size", "7"]) == 7


@pytest.mark.parametrize(
    "arguments",
    [["it", "a=1", "b=2", "--size", "7"], ["it", "--size", "7", "a=1", "b=2"], ["it", "a=1", "--list", "b=2"]],
)
def test_what_has_no_name_may_stand_before_options_and_behind_them(
    arguments: list[str], install: Callable[..., None]
) -> None:
    install("return (arguments.name, arguments.settings) != ('it', ['a=1', 'b=2'])")
    assert main(["odd", *arguments]) == 0


def test_a_command_may_have_commands_of_its_own(install_entry_point: Install) -> None:
    source = """
HELP, EXTRA = "do something odd", ""
def configure(parser):
    of_its_own = parser.add_subparsers(dest="which", required=True).add_parser("adapt")
    of_its_own.add_argument("--size", type=int)
def run(arguments):
    return arguments.size
"""
    install_entry_point("kshot.commands", "odd = odd_command", odd_command=source)
    assert main(["odd", "adapt", "--size", "7"]) == 7


def test_help_of_a_command(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert main(["odd", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: kshot odd ")
    assert "Do something odd." in shown


@pytest.mark.parametrize(
    ("name", "hint"), [("classfy", "did you mean `kshot classify`?"), ("xyzzy", "`kshot --help` lists them")]
)
def test_unknown_command(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert capsys.readouterr().err == f"kshot: error: there is no command '{name}'; {hint}\n"


def test_wrong_arguments_are_one_line(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert main(["odd", "--size", "big"]) == 2
    shown = capsys.readouterr().err
    assert shown == "kshot odd: error: argument --size: invalid int value: 'big' (see kshot odd --help)\n"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise KshotError('expected A, got B, do C')", "expected A, got B, do C"),
        ("raise KshotError", "KshotError"),
        ("open('/nowhere/at/all')", "/nowhere/at/all: No such file or directory"),
        ("raise ConnectionRefusedError(111, 'Connection refused')", "Connection refused"),
        ("raise OSError('odd')", "odd"),
        (
            "raise type('ModelError', (Exception,), {'__module__': 'kshot_models.errors'})('bad artifact')",
            "bad artifact",
        ),
    ],
)
def test_expected_errors_are_one_line(
    statement: str, message: str, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(statement)
    assert main(["odd"]) == 1
    assert capsys.readouterr().err == f"kshot: error: {message}\n"


def test_our_own_mistakes_keep_their_traceback(install: Callable[..., None]) -> None:
    install("raise ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        main(["odd"])


def test_interrupt(install: Callable[..., None]) -> None:
    install("raise KeyboardInterrupt")
    assert main(["odd"]) == 130


def test_exit_from_a_command(install: Callable[..., None]) -> None:
    install("sys.exit(3)")
    assert main(["odd"]) == 3
    install("sys.exit('words')")
    assert main(["odd"]) == 1


@pytest.mark.parametrize("where", ["run", "top"])
def test_a_missing_extra_is_named(where: str, install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    statement = "import not_installed_anywhere"
    install(statement if where == "run" else "return 0", extra="server", top=statement if where == "top" else "")
    if where == "top":  # nothing can be asked of a module that cannot be imported, and `odd` is of no known package
        with pytest.raises(ModuleNotFoundError):
            main(["odd"])
        return
    assert main(["odd"]) == 1
    assert capsys.readouterr().err == (
        "kshot: error: kshot odd needs the extra 'server': pip install 'kshot[server]' "
        "(there is no module 'not_installed_anywhere')\n"
    )


def test_two_missing_extras_are_named(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    install("import not_installed_anywhere", extra="server,torch")
    assert main(["odd"]) == 1
    assert "needs the extras 'server' and 'torch': pip install 'kshot[server,torch]'" in capsys.readouterr().err


def test_a_missing_module_without_an_extra_is_a_mistake(install: Callable[..., None]) -> None:
    install("import not_installed_anywhere")
    with pytest.raises(ModuleNotFoundError):
        main(["odd"])
    install("import kshot.no_such_part", extra="server")
    with pytest.raises(ModuleNotFoundError):
        main(["odd"])


def test_the_overview_bears_commands_that_cannot_be_imported(
    install_entry_point: Install, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(top="import not_installed_anywhere")
    assert main([]) == 0
    assert re.search(r"  odd +\(not usable: No module named 'not_installed_anywhere'\)\n", capsys.readouterr().out)
    install_entry_point("kshot.commands", "odd = kshot_training.not_there")
    assert main([]) == 0
    assert re.search(
        r"  odd +\(needs the extra 'training': pip install 'kshot\[training\]'\)\n", capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["__main__", "imported"])
def test_the_module_runs_only_as_a_program(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kshot", "--version"])
    with contextlib.suppress(SystemExit):
        runpy.run_module("kshot", run_name=name)
    assert capsys.readouterr().out == (f"kshot {kshot.__version__}\n" if name == "__main__" else "")


def test_as_a_module_and_as_a_program() -> None:
    for start in ([sys.executable, "-m", "kshot"], [str(Path(sys.executable).with_name("kshot"))]):
        done = subprocess.run([*start, "--version"], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout) == (0, f"kshot {kshot.__version__}\n")


def test_a_reader_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["--version"]) == 1


def test_a_reader_that_leaves_hears_no_complaint(install_entry_point: Install) -> None:
    line = "[sys.stdout.write('x' * 1000) for _ in range(1000)]; return 0"
    folder = install_entry_point("kshot.commands", "odd = odd_command", odd_command=command(line))
    child = subprocess.Popen(
        [sys.executable, "-m", "kshot", "odd"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(folder)},
    )
    with child:
        assert child.stdout is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr is not None
        assert child.stderr.read() == b""
    assert child.returncode == 1
