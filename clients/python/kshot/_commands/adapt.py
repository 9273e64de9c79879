"""`kshot adapt MODEL FOLDER` or `kshot adapt MODEL LABEL=FILE ...`: teach a model, print the session."""

from __future__ import annotations

import argparse
from pathlib import Path

from kshot._errors import InvalidInputError
from kshot._support import SupportInput

from .connection import add_connection, add_json, open_client, positive_int
from .output import say, say_json

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "teach a model new classes from labelled images"
EXTRA = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="name of a model, or name@version")
    parser.add_argument(
        "support",
        nargs="+",
        metavar="FOLDER|LABEL=FILE",
        help="one folder of class folders, or labelled image files; a label may come several times",
    )
    parser.add_argument(
        "--ttl-seconds", type=positive_int, metavar="N", help="how long the server keeps the session after its last use"
    )
    parser.add_argument(
        "--durability", choices=["durable", "volatile"], help="what the server may do while its store is away"
    )
    add_connection(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Teach and print the session."""
    support = _support(arguments.support)
    with open_client(arguments) as client:
        session = client.adapt(
            arguments.model, support, ttl_seconds=arguments.ttl_seconds, durability=arguments.durability
        )
        if arguments.json:
            say_json(session.last_info)
            return 0
    say(f"session  {session.id}" + ("  (known already)" if session.cached else ""))
    say(f"model    {session.model}@{session.version}")
    say("labels   " + ", ".join(f"{label} ({session.counts[label]})" for label in session.labels))
    say(f"expires  {session.expires_at:%Y-%m-%d %H:%M} UTC, later with each use")
    say(f"next     kshot classify {session.id} FILE ...")
    return 0


def _support(arguments: list[str]) -> SupportInput:
    if len(arguments) == 1 and Path(arguments[0]).is_dir():
        return arguments[0]
    pairs = [argument.partition("=") for argument in arguments]
    for label, sign, file in pairs:
        if not (label and sign and file):
            whole = label + sign + file
            raise InvalidInputError(f"{whole!r} is neither a folder of class folders nor LABEL=FILE")
    return [(label, file) for label, _, file in pairs]
