"""`kshot classify SESSION FILE ...`: ask a session about images, print a table."""

from __future__ import annotations

import argparse

from .connection import add_connection, add_json, open_client
from .output import as_data, say_json, say_table

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "ask a session what images show"
EXTRA = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("session", metavar="SESSION", help="the id that `kshot adapt` printed")
    parser.add_argument("files", nargs="+", metavar="FILE", help="PNG, JPEG or WEBP images")
    add_connection(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Classify and print a line for each file."""
    with open_client(arguments) as client:
        predictions = client.session(arguments.session).classify(arguments.files)
    answers = list(zip(arguments.files, predictions, strict=True))
    if arguments.json:
        say_json([{"file": file, **as_data(prediction)} for file, prediction in answers])
        return 0
    rows = [
        (file, one.label + (" (perhaps none of the classes)" if one.unknown else ""), f"{one.probability:.4f}")
        for file, one in answers
    ]
    say_table(("file", "label", "probability"), rows)
    return 0
