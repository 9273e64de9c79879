"""`kshot sessions ls | show | rm`: what a server remembers."""

from __future__ import annotations

import argparse
import itertools

from kshot._client import Client
from kshot._types import SessionInfo

from .connection import add_connection, add_json, open_client, positive_int
from .output import say, say_json, say_table, shorten

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "list, show or remove sessions"
EXTRA = ""

_LABELS_WIDTH = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their arguments."""
    verbs = parser.add_subparsers(metavar="ls|show|rm", required=True)
    listing = verbs.add_parser("ls", help="list the sessions of this API key", description="List the sessions.")
    listing.add_argument("--model", metavar="NAME", help="only those of this model")
    listing.add_argument("--limit", type=positive_int, metavar="N", help="at most this many")
    show = verbs.add_parser("show", help="show one session", description="Show one session.")
    show.add_argument("session", metavar="SESSION")
    remove = verbs.add_parser("rm", help="forget sessions", description="Forget sessions.")
    remove.add_argument("sessions", nargs="+", metavar="SESSION")
    for verb, does in ((listing, _list), (show, _show), (remove, _remove)):
        add_connection(verb)
        add_json(verb)
        verb.set_defaults(does=does)


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    with open_client(arguments) as client:
        arguments.does(client, arguments)
    return 0


def _list(client: Client, arguments: argparse.Namespace) -> None:
    found = list(itertools.islice(client.sessions(model=arguments.model), arguments.limit))
    if arguments.json:
        say_json(found)
        return
    header = ("session", "model", "images", "expires (UTC)", "labels")
    say_table(header, [_row(info) for info in found])


def _row(info: SessionInfo) -> tuple[str, ...]:
    labels = shorten(", ".join(info.labels), _LABELS_WIDTH)
    model = f"{info.model}@{info.version}"
    return info.id, model, str(info.support_size), f"{info.expires_at:%Y-%m-%d %H:%M}", labels


def _show(client: Client, arguments: argparse.Namespace) -> None:
    info = client.session(arguments.session).last_info
    if arguments.json:
        say_json(info)
        return
    say(info.id)
    say(f"  model       {info.model}@{info.version}")
    say("  labels      " + ", ".join(f"{label} ({info.counts[label]})" for label in info.labels))
    say(f"  created     {info.created_at:%Y-%m-%d %H:%M:%S} UTC")
    say(f"  expires     {info.expires_at:%Y-%m-%d %H:%M:%S} UTC, {info.ttl_seconds} s after its last use")
    say(f"  durability  {info.durability}")


def _remove(client: Client, arguments: argparse.Namespace) -> None:
    for session in arguments.sessions:
        client.delete_session(session)
        if not arguments.json:
            say(f"removed {session}")
    if arguments.json:
        say_json({"removed": arguments.sessions})
