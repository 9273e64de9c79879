"""`kshot models [NAME]`: what a server offers."""

from __future__ import annotations

import argparse

from kshot._types import Model

from .connection import add_connection, add_json, open_client
from .output import say, say_json, say_table

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "list the models of a server, or show one"
EXTRA = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this model only, with what it was measured to do")
    add_connection(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the models, or one of them."""
    with open_client(arguments) as client:
        found = client.models() if arguments.name is None else client.model(arguments.name)
    if arguments.json:
        say_json(found)
    elif isinstance(found, Model):
        _show(found)
    else:
        header = ("model", "version", "learner", "input", "most classes", "most images", "description")
        say_table(header, [_row(model) for model in found])
    return 0


def _row(model: Model) -> tuple[str, ...]:
    limits = model.limits
    learner, images = str(model.learner.get("type", "")), _input(model)
    return model.name, model.version, learner, images, str(limits.max_way), str(limits.max_support), model.description


def _input(model: Model) -> str:
    return f"{model.input.height}x{model.input.width}x{model.input.channels}"


def _show(model: Model) -> None:
    say(f"{model.name}@{model.version}  {model.description}".rstrip())
    say(f"  digest    {model.digest}")
    say("  learner   " + ", ".join(f"{name} {value}" for name, value in model.learner.items()))
    say(f"  input     {_input(model)}, {model.input.resize}")
    classes, images, queries = model.limits.max_way, model.limits.max_support, model.limits.max_queries
    say(f"  limits    {classes} classes, {images} support images, {queries} queries a request")
    say(f"  norm      {model.norm}")
    say(f"  versions  {', '.join(model.versions)}")
    for one in model.measured:
        setting = " ".join(word for word in (one.data, one.split) if word)
        task = f"{one.way}-way {one.shot}-shot"
        accuracy = f"{100 * one.accuracy:.2f} ± {100 * one.ci95:.2f} %"
        say(f"  measured  {accuracy}  {task}, {setting}, {one.norm} norms, {one.episodes} episodes")
