"""`kshot demo`: teach a server classes that it has never seen, and watch how well and how fast it answers.

a server of its own, or --url ──> Client ──> episodes: adapt, classify ──> live table
                                             the first one             ──> contact sheet
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np

from kshot._client import Client
from kshot._demo.episodes import Episode, sample_episode
from kshot._demo.measurements import Measurements
from kshot._demo.server import LocalServer, ending_signals_as_interrupt
from kshot._demo.sheet import contact_sheet
from kshot._demo.sources import Source, open_source
from kshot._demo.table import LiveTable
from kshot._errors import APIConnectionError, InvalidInputError, ServerError
from kshot._settings import DEFAULT_TIMEOUT_SECONDS
from kshot._types import Model, Prediction

from .connection import add_json, positive_int, positive_seconds
from .output import say_json

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "teach a server classes that it has never seen, and watch"
EXTRA = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--data", default="glyphs", metavar="SOURCE", help="glyphs (default), omniglot:DIR or folder:DIR"
    )
    parser.add_argument("--model", default="omniglot", metavar="NAME", help="the model to teach (default: %(default)s)")
    parser.add_argument("--episodes", type=positive_int, default=100, metavar="N", help="tasks (default: %(default)s)")
    parser.add_argument(
        "--way", type=positive_int, default=5, metavar="N", help="classes a task (default: %(default)s)"
    )
    parser.add_argument(
        "--shot", type=positive_int, default=1, metavar="N", help="images to teach a class with (default: %(default)s)"
    )
    parser.add_argument(
        "--queries",
        type=positive_int,
        default=15,
        metavar="N",
        help="images to ask about a class (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, other tasks (default: %(default)s)"
    )
    parser.add_argument("--url", metavar="URL", help="use this server; without it one is started, and ended")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for an answer (default: %(default)g)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo.png"),
        metavar="FILE",
        help="contact sheet of the first task (default: %(default)s)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; the server's failure is the command's."""
    _check(arguments)
    source = open_source(arguments.data, seed=arguments.seed)
    with ending_signals_as_interrupt(), contextlib.ExitStack() as stack:
        if arguments.url is not None:
            client = stack.enter_context(Client(arguments.url, timeout=arguments.timeout))
            return _teach_and_ask(client, source, arguments)
        _tell(arguments, "starting a server ...")
        server = stack.enter_context(LocalServer())
        client = stack.enter_context(Client(server.url, api_key="", timeout=arguments.timeout))
        try:
            return _teach_and_ask(client, source, arguments)
        except (APIConnectionError, ServerError):
            server.check()
            raise


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what would fail only after minutes."""
    if arguments.way < 2:
        raise InvalidInputError("--way must be at least 2: with one class there is nothing to tell apart")
    if arguments.seed < 0:
        raise InvalidInputError("--seed must be 0 or more")
    if arguments.out.suffix.lower() != ".png" or not arguments.out.parent.is_dir():
        raise InvalidInputError(f"--out {arguments.out}: expected a .png file in a folder that exists")


def _teach_and_ask(client: Client, source: Source, arguments: argparse.Namespace) -> int:
    model = client.model(arguments.model)
    way, shot, queries = arguments.way, arguments.shot, arguments.queries
    _tell(arguments, _headline(model, source, arguments))
    generator = np.random.default_rng(arguments.seed)
    table = LiveTable(_stream(arguments), total=arguments.episodes, support=way * shot, queries=way * queries)
    measured = Measurements()
    for number in range(arguments.episodes):
        episode = sample_episode(source.classes, generator, way=way, shot=shot, queries=queries)
        predictions = _one_task(client, arguments.model, episode, measured)
        if number == 0:
            title = f"{model.name}@{model.version}, {way}-way {shot}-shot"
            contact_sheet(episode, predictions, title=title).save(arguments.out)
        table.show(measured.summary())
    _tell(arguments, f"\nthe first task, drawn: {arguments.out}")
    if arguments.json:
        setting = {"model": model.name, "version": model.version, "data": arguments.data, "seed": arguments.seed}
        sizes = {"way": way, "shot": shot, "queries": queries, "sheet": str(arguments.out)}
        say_json({**setting, **sizes, **measured.summary().as_data()})
    return 0


def _one_task(client: Client, model: str, episode: Episode, measured: Measurements) -> list[Prediction]:
    """Teach, ask, count; times are as the caller waits, encoding and network included."""
    started = time.perf_counter()
    with client.adapt(model, episode.support) as session:
        adapted = time.perf_counter()
        predictions = session.classify([query.picture for query in episode.queries])
        answered = time.perf_counter()
    right = [one.label == query.label for one, query in zip(predictions, episode.queries, strict=True)]
    measured.add(float(np.mean(right)), adapt_seconds=adapted - started, classify_seconds=answered - adapted)
    return predictions


def _headline(model: Model, source: Source, arguments: argparse.Namespace) -> str:
    steps = model.learner.get("inner_steps")
    learner = f"{model.learner.get('type')} learner" + (f", {steps} inner steps" if steps else "")
    task = f"{arguments.way}-way {arguments.shot}-shot tasks, {arguments.queries} queries a class"
    return f"model   {model.name}@{model.version} ({learner})\ndata    {source.description}\ntasks   {task}\n"


def _stream(arguments: argparse.Namespace) -> TextIO:
    # With --json, stdout is for the answer alone.
    return sys.stderr if arguments.json else sys.stdout


def _tell(arguments: argparse.Namespace, text: str) -> None:
    stream = _stream(arguments)
    stream.write(f"{text}\n")
    stream.flush()
