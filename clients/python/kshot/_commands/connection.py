"""Where the server is, as arguments of a command. The API key is no argument: the process list would show it."""

from __future__ import annotations

import argparse
import contextlib
import math

from kshot._client import Client
from kshot._settings import DEFAULT_TIMEOUT_SECONDS, DEFAULT_URL

__all__ = ["add_connection", "add_json", "open_client", "positive_int", "positive_seconds"]


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add --url and --timeout."""
    parser.add_argument("--url", metavar="URL", help=f"the server; $KSHOT_URL, then {DEFAULT_URL}, if not given")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for an answer (default: %(default)g)",
    )
    parser.epilog = "An API key is read from $KSHOT_API_KEY."


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def open_client(arguments: argparse.Namespace) -> Client:
    """A client for the arguments of add_connection."""
    return Client(arguments.url, timeout=arguments.timeout)


def positive_seconds(text: str) -> float:
    """An argument that is a number of seconds above 0."""
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds) and seconds > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")


def positive_int(text: str) -> int:
    """An argument that is a whole number above 0."""
    with contextlib.suppress(ValueError):
        number = int(text)
        if number > 0:
            return number
    raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
