"""From the arguments of a command to a report."""

from __future__ import annotations

import argparse

from kshot_bench.contest import Contest, Options
from kshot_bench.machine import describe
from kshot_bench.noise import look_around
from kshot_bench.report import Report, WorkItem, work_item
from kshot_bench.work import Work

__all__ = ["options_of", "run_bench", "work_of"]


def run_bench(arguments: argparse.Namespace, *, command: str) -> Report:
    """Run the sub-bench that the arguments name."""
    work, options = work_of(arguments), options_of(arguments)
    look_around(allow_noise=options.allow_noise)
    return _adapt(arguments, work, options, command)


def _adapt(arguments: argparse.Namespace, work: Work, options: Options, command: str) -> Report:
    from kshot_bench.benches.adapt import adapt, cost_of  # noqa: PLC0415 - brings in the engine

    item = work_item("adapt and predict", work, cost_of(work, frozen=arguments.frozen))
    return _report("adapt", item, adapt(work, options, frozen=arguments.frozen), options, command)


def _report(bench: str, item: WorkItem, contest: Contest, options: Options, command: str) -> Report:
    return Report.model_validate(
        {
            "bench": bench,
            "device": options.device,
            "work": item,
            "rows": contest.rows,
            "floor": contest.floor,
            "noise": contest.noise,
            "noisy": contest.noise.noisy,
            "machine": describe(options.device),
            "command": command,
            **contest.verdicts(),
        }
    )


def work_of(arguments: argparse.Namespace) -> Work:
    """The work item that the sizes name.

    Raises:
        ValueError: one of them is not possible.
    """
    channels = tuple(int(part) for part in arguments.channels.split(","))
    sizes = {name: getattr(arguments, name) for name in ("way", "shot", "steps", "queries", "size")}
    return Work(channels=channels, **sizes)


def options_of(arguments: argparse.Namespace) -> Options:
    """How to measure."""
    return Options(
        device=arguments.device,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        window_seconds=arguments.window,
        allow_noise=arguments.allow_noise,
    )
