"""`kshot reproduce`: published figures again, one command for all of them."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kshot_training.recipe import Recipe
    from kshot_training.reproductions import Run

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "train and measure what papers published"
EXTRA = "training"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--only", metavar="PATTERN", default="*", help="runs by name, with * and ?: omniglot-maml-*, *-5w1s, sine-*"
    )
    parser.add_argument("--list", action="store_true", help="show the runs and what is done")
    parser.add_argument(
        "--costs", action="store_true", help="the same with what each one costs; counting all takes a minute or two"
    )
    parser.add_argument("--rows", action="store_true", help="only give each run its rows in --results, empty as yet")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="folders of runs (default: runs)")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("training/results"),
        metavar="DIR",
        help="where the figures go, RECIPE.json (default: training/results)",
    )
    parser.add_argument(
        "--budget-seconds", type=float, metavar="S", help="stop training after so long; the same command goes on"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="where `kshot data` put the data sets")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of decoded images (default: ~/.cache/kshot)")
    parser.add_argument("--threads", type=int, metavar="N", help="tasks side by side (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Do what is left; 0 if all is done, 130 if stopped or out of time, 1 if a run failed, 2 for a wrong request."""
    from kshot_training.reproduce import add_missing
    from kshot_training.reproductions import plan, read_reproductions

    runs = [run for run in plan(read_reproductions()) if fnmatchcase(run.name, args.only)]
    if not runs:
        print(f"kshot reproduce: no run is called {args.only!r}; --list shows the names", file=sys.stderr)
        return 2
    if args.list or args.costs:
        return _list(args, runs)
    add_missing(args.results, runs)
    return 0 if args.rows else _reproduce_all(args, runs)


def _list(args: argparse.Namespace, runs: list[Run]) -> int:
    from kshot_training.reproduce import is_done

    costs = f" {'GFLOP a step':>13} {'PFLOP':>8}" if args.costs else ""
    print(f"{'run':32} {'steps':>8}{costs}  state")
    for run in runs:
        recipe = run.recipe()
        state = "done" if is_done(run, args.results) else "to do"
        told = _told_costs(recipe) if args.costs else ""
        print(f"{run.name:32} {recipe.outer.steps:8}{told}  {state}", flush=True)
    return 0


def _told_costs(recipe: Recipe) -> str:
    # A Python function for each of up to 25,000 operations of a step: up to seconds for each run.
    from kshot_training.flops import outer_step_flops

    flops = outer_step_flops(recipe)
    return f" {flops / 1e9:13.3f} {flops * recipe.outer.steps / 1e15:8.3f}"


def _reproduce_all(args: argparse.Namespace, runs: list[Run]) -> int:
    from kshot_models.errors import ModelError
    from kshot_training.errors import TrainingError
    from kshot_training.process import prepare_process, stop_signals
    from kshot_training.reproduce import is_done

    deadline = None if args.budget_seconds is None else time.monotonic() + args.budget_seconds
    prepare_process()
    failed = 0
    with stop_signals() as wished:

        def stop() -> bool:
            return wished() or (deadline is not None and time.monotonic() > deadline)

        for run in runs:
            if is_done(run, args.results):
                print(f"{run.name}: done before")
                continue
            if stop():
                return 130
            try:
                finished = _one(args, run, stop)
            except (TrainingError, ModelError) as error:  # such as data that are not at hand: the others go on
                print(f"kshot reproduce: {run.name}: {error}", file=sys.stderr)
                failed += 1
                continue
            if not finished:
                print(f"{run.name}: stopped; the same command goes on", file=sys.stderr)
                return 130
    return 1 if failed else 0


def _one(args: argparse.Namespace, run: Run, stop: Callable[[], bool]) -> bool:
    from kshot_training.process import default_cache, default_threads
    from kshot_training.progress import bar_reporter
    from kshot_training.reproduce import device_overrides, reproduce, rows_path
    from kshot_training.results import record
    from kshot_training.sampling import Place

    recipe = run.recipe(*device_overrides(run, args.device))
    print(f"{run.name}: {recipe.outer.steps} outer steps of {recipe.episodes.tasks} tasks", flush=True)
    rows = reproduce(
        run,
        recipe,
        args.out / run.name,
        Place(args.data_root, args.cache or default_cache(), args.device),
        reporter=lambda done: bar_reporter(done=done, steps=recipe.outer.steps, tasks=recipe.episodes.tasks),
        stop=stop,
        workers=args.threads or default_threads(),
    )
    if rows is None:
        return False
    record(rows_path(args.results, run), *rows)
    for row in rows:
        told = f"error {row.mse:.4f}" if row.accuracy is None else f"{row.accuracy:.2%} ± {row.ci95 or 0:.2%}"
        print(f"{run.name}: {row.way}-way {row.shot}-shot, {row.norm}: {told}", flush=True)
    return True
