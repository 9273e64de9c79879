"""The `kshot` command: finds its sub-commands among the installed packages, runs one, and turns errors into one line.

    kshot COMMAND ...  ──>  entry point of the group `kshot.commands`  ──>  a module with
                                HELP: str                what it does, in a few words
                                EXTRA: str               the extras that it needs, "server,torch"; "" for none
                                configure(parser)        adds its arguments
                                run(arguments) -> int    does it; the answer is the exit code

A command module imports only what is light; what its extra brings is imported inside `run`. So this package knows no
other one, `kshot --help` is quick, and a command whose extra is missing can say so.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn, Protocol, cast

from ._errors import KshotError, MissingExtraError
from ._version import __version__

__all__ = ["main"]

# Which extra a package's commands need, for those that cannot even be imported to be asked.
_PACKAGE_EXTRAS = {"kshot_server": "server,torch", "kshot_training": "training", "kshot_bench": "bench"}


class Command(Protocol):
    """What a command module holds."""

    HELP: str
    EXTRA: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it."""


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """What has no name may stand behind options (KEY=VALUE), but where a command has commands of its own."""
        nested = any(action.nargs in {argparse.PARSER, argparse.REMAINDER} for action in self._actions)
        return self.parse_args(arguments) if nested else self.parse_intermixed_args(arguments)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class UnknownCommandError(KshotError):
    """There is no such sub-command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `kshot` command.

    Args:
        argv: arguments after the program's name; those of the process if not given.

    Returns:
        The exit code.
    """
    try:
        return _flushed(_dispatch(list(sys.argv[1:] if argv is None else argv)))
    except SystemExit as stop:  # how argparse ends, after --help or an error
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has left. Without this, the interpreter would complain when it flushes on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not _is_expected(error):
            raise
        sys.stderr.write(f"kshot: error: {_message(error)}\n")
        return 2 if isinstance(error, UnknownCommandError) else 1


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, EntryPoint] = {}
    for point in entry_points(group="kshot.commands"):
        commands.setdefault(point.name, point)  # the first on sys.path wins, as with modules
    name = arguments[0] if arguments else "--help"
    if name == "--version":
        sys.stdout.write(f"kshot {__version__}\n")
        return 0
    if name in {"--help", "-h", "help"}:
        sys.stdout.write(_overview(commands))
        return 0
    if name not in commands:
        close = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean `kshot {close[0]}`?" if close else "`kshot --help` lists them"
        raise UnknownCommandError(f"there is no command {name!r}; {hint}")
    return _run(commands[name], arguments[1:])


def _flushed(code: int) -> int:
    sys.stdout.flush()  # inside main's try, where a reader that has left is expected
    return code


def _run(point: EntryPoint, arguments: list[str]) -> int:
    extra = _PACKAGE_EXTRAS.get(point.module.partition(".")[0], "")
    try:
        command = _load(point)
        extra = command.EXTRA or ""
        parser = _Parser(prog=f"kshot {point.name}", description=_sentence(command.HELP))
        command.configure(parser)
        return command.run(parser.parse(arguments))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not extra or package.startswith("kshot"):
            raise
        raise MissingExtraError(
            f"kshot {point.name} needs {_needs(extra)} (there is no module {error.name!r})"
        ) from error


def _load(point: EntryPoint) -> Command:
    return cast("Command", importlib.import_module(point.value))


def _overview(commands: Mapping[str, EntryPoint]) -> str:
    width = max((len(name) for name in commands), default=0)
    lines = [f"  {name:<{width}}  {_help(point)}" for name, point in sorted(commands.items())]
    return "\n".join(
        [
            "usage: kshot COMMAND ...",
            "",
            "An image model that learns new classes over HTTP, in milliseconds.",
            "",
            "commands:",
            *lines,
            "",
            "`kshot COMMAND --help` explains a command; `kshot --version` tells the version.",
            "",
        ]
    )


def _help(point: EntryPoint) -> str:
    try:
        return _load(point).HELP
    except ModuleNotFoundError as error:
        extra = _PACKAGE_EXTRAS.get(point.module.partition(".")[0])
        return f"(needs {_needs(extra)})" if extra else f"(not usable: {error})"


def _needs(extra: str) -> str:
    names = [f"'{name.strip()}'" for name in extra.split(",")]
    return f"the extra{'s' if len(names) > 1 else ''} {' and '.join(names)}: pip install 'kshot[{extra}]'"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _is_expected(error: Exception) -> bool:
    """Whether an error was made for people to read: kshot's packages have trees of them, and the system has OSError."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package == "kshot" or package.startswith("kshot_")


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
