"""From the arguments of a command to a report: one function for each sub-bench."""

# Each brings in only what it needs: the engine, training, or the client.
# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kshot_bench.contest import Contest, Options
from kshot_bench.machine import check_device, describe
from kshot_bench.noise import look_around
from kshot_bench.report import Report, best, work_item
from kshot_bench.work import Cost, Work, layers, meta_gradient_cost

if TYPE_CHECKING:  # brings in the engine
    from kshot_bench.curves import Curve

__all__ = ["options_of", "run_bench", "work_of"]


_CURVE_REPETITIONS = 3  # points are many, and a curve tells by its shape


def run_bench(arguments: argparse.Namespace, *, command: str) -> Report:
    """Run the sub-bench that the arguments name.

    Raises:
        BenchError: see errors.py.
        ValueError: sizes that are not possible.
    """
    work, options = work_of(arguments), options_of(arguments)
    check_device(options.device)
    layers(work)  # refuses what no network can be made for, before processes are started
    look_around(allow_noise=options.allow_noise)
    found = _RUNS[arguments.bench](arguments, work, options)
    named = {"bench": arguments.bench, "device": options.device, "command": command}
    return Report.model_validate({**named, "machine": describe(options.device), **found})


def _adapt(arguments: argparse.Namespace, work: Work, options: Options) -> dict[str, Any]:
    from kshot_bench.benches.adapt import adapt, cost_of
    from kshot_bench.curves import parse_curve

    wanted = [parse_curve(text) for text in arguments.curve]
    contest = adapt(work, options, frozen=arguments.frozen)
    curves = _curves(wanted, work, options, contest) if wanted else {}
    name = "embed and answer, the encoder frozen" if arguments.frozen else "adapt and predict"
    return _of_contest(contest, name, work, cost_of(work, frozen=arguments.frozen)) | {"curves": curves}


def _curves(
    wanted: Sequence[Curve], work: Work, options: Options, contest: Contest
) -> dict[str, list[dict[str, float]]]:
    from kshot_bench.crew import Crew
    from kshot_bench.curves import measure_curve

    limit = max(contest.floor.gemm_gflops, contest.floor.gemm_gflops_one_process)
    fewer = replace(options, repetitions=min(options.repetitions, _CURVE_REPETITIONS))
    with Crew(options.workers) as crew:
        return {curve[0]: measure_curve(curve, work, crew, fewer, gemm_gflops=limit) for curve in wanted}


def _classify(arguments: argparse.Namespace, work: Work, options: Options) -> dict[str, Any]:
    from kshot_bench.benches.classify import classify, cost_of

    contest = classify(work, options, sessions=arguments.sessions)
    return _of_contest(contest, "classify one image of a cached session", work, cost_of(work)) | {
        "details": {"sessions": arguments.sessions}
    }


def _train(arguments: argparse.Namespace, work: Work, options: Options) -> dict[str, Any]:
    from kshot_bench.benches.memory import peaks
    from kshot_bench.benches.train import cost_of, train

    contest = train(work, options, tasks=arguments.tasks)
    memory = peaks(work, [row.name for row in contest.rows], options.device)
    rows = [row.model_copy(update={"peak_bytes": memory[row.name]}) for row in contest.rows]
    leanest = min(memory[name] for name in contest.peers)
    details = {
        "tasks of a meta-batch": arguments.tasks,
        "peak memory, best peer over kshot": leanest / memory["kshot"],
    }
    return _of_contest(contest, "second-order meta-gradient", work, cost_of(work)) | {"rows": rows, "details": details}


def _memory(arguments: argparse.Namespace, work: Work, options: Options) -> dict[str, Any]:
    from kshot_bench.benches.memory import memory
    from kshot_bench.peers.table import ADAPTING

    del arguments
    rows, growth = memory(work, options)
    (recomputed,) = [row.peak_bytes for row in rows if row.name == "kshot recomputed"]
    assert recomputed is not None  # every row has one
    own, rival = rows[0].peak_bytes, best((row for row in rows if row.name in ADAPTING), "peak_bytes")
    assert own is not None  # every row has one
    assert rival is not None
    assert rival.peak_bytes is not None
    return {
        "work": work_item("peak memory of a second-order meta-gradient", work, meta_gradient_cost(work)),
        "rows": rows,
        "best_peer": rival.name,
        "ratio_to_best_peer": rival.peak_bytes / own,
        "details": growth | {"best peer over kshot recomputed": rival.peak_bytes / recomputed},
    }


def _serve(arguments: argparse.Namespace, work: Work, options: Options) -> dict[str, Any]:
    from kshot_bench.benches.adapt import cost_of
    from kshot_bench.benches.serve import serve

    contest, details = serve(
        work,
        options,
        clients=arguments.clients,
        connections=arguments.connections,
        sessions=arguments.sessions,
    )
    found = _of_contest(contest, "adapt and classify in one request", work, cost_of(work))
    # Alone, sides only adapt: the floor of the whole work item is not theirs.
    return found | {"details": details, "latency_fraction_of_floor": None}


def _of_contest(contest: Contest, name: str, work: Work, cost: Cost) -> dict[str, Any]:
    return {
        "work": work_item(name, work, cost),
        "rows": contest.rows,
        "floor": contest.floor,
        "noise": contest.noise,
        "noisy": contest.noise.noisy,
        **contest.verdicts(),
    }


_RUNS: Mapping[str, Callable[[argparse.Namespace, Work, Options], dict[str, Any]]] = {
    "adapt": _adapt,
    "classify": _classify,
    "memory": _memory,
    "serve": _serve,
    "train": _train,
}


def work_of(arguments: argparse.Namespace) -> Work:
    """The work item that the sizes name.

    Raises:
        ValueError: one of them is not possible.
    """
    names = ("way", "shot", "steps", "queries", "size", "input_channels", "network")
    sizes = {name: getattr(arguments, name) for name in names}
    if arguments.channels is not None:
        sizes["channels"] = tuple(int(part) for part in arguments.channels.split(","))
    return Work(**sizes)


def options_of(arguments: argparse.Namespace) -> Options:
    """How to measure."""
    return Options(
        device=arguments.device,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        window_seconds=arguments.window,
        allow_noise=arguments.allow_noise,
    )
