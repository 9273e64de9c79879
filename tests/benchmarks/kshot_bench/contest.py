"""Sides that do the same work, by turns: throughput (many tasks, all cores) and latency (one task, all cores)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kshot_bench.crew import Crew
from kshot_bench.jobs import Gemm, Job, perform
from kshot_bench.limits import copy_rate, gemm_rate
from kshot_bench.machine import cores
from kshot_bench.noise import LoadMeter, Noise, judge, tree_seconds
from kshot_bench.report import Floor, Row, best
from kshot_bench.statistics import interleave, median, spread
from kshot_bench.threads import with_threads
from kshot_bench.work import Cost, Work

__all__ = ["Contest", "Options", "Side", "compete", "crewed_side", "window"]

_MOST_TASKS = 1 << 14

Run = Callable[[int], float]  # does so many tasks, answers the seconds


@dataclass(frozen=True)
class Options:
    """How to measure."""

    device: str = "cpu"
    threads: int = 0  # 0: one for each core
    repetitions: int = 7
    window_seconds: float = 0.5  # of one side in one repetition
    allow_noise: bool = False

    @property
    def workers(self) -> int:
        """Processes of a peer, and threads of one task alone."""
        return self.threads or cores()


@dataclass(frozen=True)
class Side:
    """One way of doing the work: many tasks on all cores, and one after the other, each on all cores."""

    name: str
    throughput: Run
    latency: Run | None = None
    peer: bool = True
    parallel: int = 1  # tasks that are done in fact for each one asked of `throughput`: a crew's processes
    multiple: int = 1  # `throughput` does whole batches of so many
    counted: bool = True  # whether as many tasks are done as are asked for, so that processor time can be shared out


@dataclass(frozen=True)
class Contest:
    """What came out."""

    rows: tuple[Row, ...]
    floor: Floor
    noise: Noise
    peers: frozenset[str] = field(default_factory=frozenset)

    def best_peer(self, key: str) -> Row | None:
        """The peer with the least `ms_per_task` or `latency_ms`."""
        return best((row for row in self.rows if row.name in self.peers), key)

    def ratio(self, key: str) -> float | None:
        """How many times longer the best peer takes than kshot, the first row."""
        rival, own = self.best_peer(key), getattr(self.rows[0], key)
        return None if rival is None or own is None else float(getattr(rival, key)) / own

    def verdicts(self) -> dict[str, float | str | None]:
        """The ratios and fractions of a Report, by its fields."""
        rival, quickest = self.best_peer("ms_per_task"), self.best_peer("latency_ms")
        own = self.rows[0]
        return {
            "best_peer": rival.name if rival else None,
            "ratio_to_best_peer": self.ratio("ms_per_task"),
            "fraction_of_floor": None if own.ms_per_task is None else self.floor.ms_per_task / own.ms_per_task,
            "cpu_ratio_to_best_peer": self.ratio("cpu_ms_per_task"),
            "cpu_fraction_of_floor": (
                None
                if own.cpu_ms_per_task is None or self.floor.cpu_ms_per_task is None
                else self.floor.cpu_ms_per_task / own.cpu_ms_per_task
            ),
            "latency_best_peer": quickest.name if quickest else None,
            "latency_ratio_to_best_peer": self.ratio("latency_ms"),
            "latency_fraction_of_floor": None if own.latency_ms is None else self.floor.latency_ms / own.latency_ms,
        }


def compete(sides: list[Side], work: Work, cost: Cost, crew: Crew, options: Options) -> Contest:
    """Measure all sides and the machine's limit in one run; kshot is the first side.

    Raises:
        TooNoisy: see `judge`.
    """
    meter = LoadMeter()
    share = options.window_seconds

    gemm_alone = with_threads(options.workers, lambda: 1 / gemm_rate(work, share, device=options.device))

    def gemm_of_all() -> float:
        # Processes on one GPU take turns: each would see the whole of it in its best moment.
        if options.device != "cpu":
            return gemm_alone()
        return 1 / sum(crew.perform(Gemm(work=work, seconds=share)))

    spent: dict[str, list[float]] = {side.name: [] for side in sides}
    many = {side.name: window(_metered(side, spent[side.name]), share, multiple=side.multiple) for side in sides}
    throughput = interleave({**many, "floor": gemm_of_all}, options.repetitions)
    alone = {side.name: window(side.latency, share) for side in sides if side.latency is not None}
    latency = interleave({**alone, "floor": gemm_alone}, options.repetitions)
    figures = {name: values for name, values in throughput.items() if name != "floor"}
    figures |= {f"{name} alone": values for name, values in latency.items() if name != "floor"}
    noise = judge(figures, meter.others(), allow_noise=options.allow_noise)
    rows = tuple(_row(side.name, throughput, latency, spent[side.name]) for side in sides)
    copied = with_threads(options.workers, copy_rate)(share, device=options.device)
    floor = _floor(cost, throughput["floor"], latency["floor"], copied, workers=options.workers)
    return Contest(rows, floor, noise, frozenset(side.name for side in sides if side.peer))


def window(run: Run, seconds: float, *, multiple: int = 1) -> Callable[[], float]:
    """A call that does about `seconds` of work, in multiples of so many tasks, and answers the seconds per task.

    The first two calls find out how many tasks that is, one after the costs of a first time are paid.
    """
    counts: list[int] = []

    def measured() -> float:
        if not counts:
            run(1)
            once = max(run(1), 1e-9)
            counts.append(math.ceil(min(seconds / once, _MOST_TASKS) / multiple) * multiple)
        return run(counts[0]) / counts[0]

    return measured


def crewed_side(name: str, crew: Crew, job: Callable[[int], Job], options: Options) -> Side:
    """A peer: many tasks by the whole crew, one alone in this process with a thread for each core.

    Args:
        name: of the side.
        crew: its processes.
        job: that of so many tasks, which answers seconds.
        options: how to measure.
    """

    def together(count: int) -> float:
        return count / crew.rate(job(count), count)

    alone = with_threads(options.workers, lambda count: perform(job(count)))
    return Side(name, together, alone, parallel=len(crew))


def _metered(side: Side, spent: list[float]) -> Run:
    """The throughput of a side, that notes the processor seconds a task took, in whatever processes of ours."""

    def run(count: int) -> float:
        before = tree_seconds()
        seconds = side.throughput(count)
        if side.counted:
            spent.append((tree_seconds() - before) / (count * side.parallel))
        return seconds

    return run


def _row(
    name: str, throughput: Mapping[str, list[float]], latency: Mapping[str, list[float]], spent: list[float]
) -> Row:
    per_task = median(throughput[name])
    alone = latency.get(name)
    return Row(
        name=name,
        ms_per_task=per_task * 1e3,
        tasks_per_second=1 / per_task,
        spread=spread(throughput[name]),
        cpu_ms_per_task=median(spent[-len(throughput[name]) :]) * 1e3 if spent else None,
        latency_ms=median(alone) * 1e3 if alone else None,
        latency_spread=spread(alone) if alone else None,
    )


def _floor(cost: Cost, crew: list[float], alone: list[float], copied: float, *, workers: int) -> Floor:
    # Both are seconds per FLOP. The larger of the two rates is the limit of many tasks; one task has but one process.
    together, single = 1 / median(crew), 1 / median(alone)
    return Floor(
        gemm_gflops=together / 1e9,
        gemm_gflops_one_process=single / 1e9,
        copy_gbytes_per_second=copied / 1e9,
        ms_per_task=cost.flops / max(together, single) * 1e3,
        cpu_ms_per_task=cost.flops / max(together, single) * 1e3 * workers,
        latency_ms=cost.flops / single * 1e3,
        bytes_ms=cost.bytes / copied * 1e3,
    )
