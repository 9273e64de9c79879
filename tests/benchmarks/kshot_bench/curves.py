"""How adaptation grows: throughput of kshot and the peers as one size varies, with the machine's limit beside them.

`--curve way=2,5,10,20` varies the classes, `tasks=1,4,16` how many requests are in the engine at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from kshot_bench.benches.adapt import cost_of, peer_sides, served_side
from kshot_bench.contest import Options, window
from kshot_bench.crew import Crew
from kshot_bench.errors import BenchError
from kshot_bench.peers.table import ADAPTING
from kshot_bench.served import Served
from kshot_bench.statistics import interleave, median
from kshot_bench.tasks import learner_spec
from kshot_bench.work import Work

__all__ = ["VARIED", "Curve", "measure_curve", "parse_curve"]

VARIED = ("way", "shot", "steps", "queries", "size", "tasks")

Curve = tuple[str, tuple[int, ...]]
Point = dict[str, float]


def parse_curve(text: str) -> Curve:
    """`way=2,5,10` -> ("way", (2, 5, 10)).

    Raises:
        BenchError: it is not of that form.
    """
    name, _, values = text.partition("=")
    try:
        sizes = tuple(int(value) for value in values.split(","))
    except ValueError:
        sizes = ()
    if name not in VARIED or not sizes or min(sizes) < 1:
        raise BenchError(f"--curve: expected NAME=N,N,... with NAME one of {', '.join(VARIED)}, got {text!r}")
    return name, sizes


def measure_curve(curve: Curve, work: Work, crew: Crew, options: Options, *, gemm_gflops: float) -> list[Point]:
    """One point for each value.

    Args:
        curve: what varies.
        work: everything else.
        crew: the peers' processes.
        options: how to measure.
        gemm_gflops: the machine's limit.

    Returns:
        points: the value under the curve's name, tasks per second by side, and `limit`.
    """
    name, values = curve
    if name == "tasks":
        return _at_once(values, work, options, gemm_gflops)
    return [{name: value, **_point(work, name, value, crew, options, gemm_gflops)} for value in values]


def _point(work: Work, name: str, value: int, crew: Crew, options: Options, gemm_gflops: float) -> Point:
    varied = Work.model_validate(work.model_dump() | {name: value})
    with Served(varied, learner_spec(varied), device=options.device, threads=options.threads) as served:
        sides = [served_side("kshot", served), *peer_sides(ADAPTING, varied, crew, options)]
        windows = {side.name: window(side.throughput, options.window_seconds, multiple=side.multiple) for side in sides}
        figures = interleave(windows, options.repetitions)
    return {side: 1 / median(seconds) for side, seconds in figures.items()} | {"limit": _limit(varied, gemm_gflops)}


def _at_once(values: Sequence[int], work: Work, options: Options, gemm_gflops: float) -> list[Point]:
    """kshot alone: its peers know no batch of tasks."""
    with Served(work, learner_spec(work), device=options.device, threads=options.threads) as served:

        def batch(size: int) -> float:
            return served.together(size) / size

        windows = {str(size): (lambda size=size: batch(size)) for size in values}
        figures = interleave(windows, options.repetitions)
    limit = _limit(work, gemm_gflops)
    return [{"tasks": size, "kshot": 1 / median(figures[str(size)]), "limit": limit} for size in values]


def _limit(work: Work, gemm_gflops: float) -> float:
    return gemm_gflops * 1e9 / cost_of(work).flops
