"""The goals of the design, each with the committed report that tells whether it is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kshot_bench.report import Report, Row

__all__ = ["GOALS", "Goal", "Reading"]


class Reading(NamedTuple):
    """What a report says of a goal.

    `spreads` are those of the rows that it compares: others may have been too unsteady, and it can still be told.
    Without them it is as good as the whole report.
    """

    text: str
    reached: bool
    spreads: tuple[float | None, ...] | None = None

    def noisy(self, report: Report) -> bool:
        """Whether the machine was too noisy to tell."""
        noise = report.noise
        if self.spreads is None or noise is None:
            return report.noisy
        unsteady = any(spread is not None and spread > noise.spread_limit for spread in self.spreads)
        return unsteady or noise.other_load > noise.other_load_limit


class Goal(NamedTuple):
    """`report` is the stem of a file in the folder of results."""

    what: str
    goal: str
    report: str
    read: Callable[[Report], Reading | None]  # None: the report does not hold it


def _at_least(field: str, least: float, form: str = "{:.2f}x") -> Callable[[Report], Reading | None]:
    def read(report: Report) -> Reading | None:
        value = getattr(report, field)
        return None if value is None else Reading(form.format(value), value >= least, _compared(report, field))

    return read


def _compared(report: Report, field: str) -> tuple[float | None, ...]:
    """Spreads of the first row, which is ours, and of the best peer where `field` is a ratio to it."""
    alone = field.startswith("latency")
    peer = report.latency_best_peer if alone else report.best_peer
    rows = [row for row in report.rows if row.name == peer] if field.endswith("best_peer") else []
    return tuple(row.latency_spread if alone else row.spread for row in [*report.rows[:1], *rows])


def _detail(
    name: str, form: str, reached: Callable[[float], bool], *, spreads: tuple[str, ...] | None = None
) -> Callable[[Report], Reading | None]:
    """Of a figure beside the rows; `spreads` are those of its own repetitions, None: it is as good as the rows."""

    def read(report: Report) -> Reading | None:
        value = report.details.get(name)
        if not isinstance(value, int | float):
            return None
        own = None if spreads is None else tuple(float(report.details[spread] or 0.0) for spread in spreads)
        return Reading(form.format(value), reached(float(value)), own)

    return read


def _rate(row: str, least: float) -> Callable[[Report], Reading | None]:
    def read(report: Report) -> Reading | None:
        found = _row(report, row)
        rate = found.tasks_per_second
        return None if rate is None else Reading(f"{rate:,.0f}/s", rate >= least, (found.spread,))

    return read


def _adapt_over_http(report: Report) -> Reading | None:
    rows = _row(report, "http safetensors"), _row(report, "in process")
    http, here = (row.latency_ms for row in rows)
    if http is None or here is None:
        return None
    return Reading(f"{http / here:.2f}x", http / here <= 1.3, tuple(row.latency_spread for row in rows))


def _under_load(report: Report) -> Reading | None:
    found = report.details.get("at 70% load, p99 over p50")
    ideal = report.details.get("the same of an ideal queue, one task a core (M/D/c)")
    if not (isinstance(found, float) and isinstance(ideal, float)):
        return None
    text = f"{found:.2f}x; of a queue that adds nothing and has the same time for all: {ideal:.2f}x"
    # Of thousands of requests: from window to window it differs by when they happen to come.
    return Reading(text, found <= 3, ())


def _without_torch(report: Report) -> Reading | None:
    rows = [row for row in report.rows if row.name in {"kshot", "kshot, onnxruntime"}]
    found = [row.latency_ms for row in rows]
    if len(found) != 2 or None in found:
        return None
    torch, onnx = (float(milliseconds) for milliseconds in found if milliseconds is not None)
    return Reading(f"{onnx / torch:.2f}x", onnx <= torch, tuple(row.latency_spread for row in rows))


def _sessions(report: Report) -> Reading | None:
    count = report.details.get("live sessions")
    if not isinstance(count, int):
        return None
    before = report.details["classify p99 ms, 64 sessions"]
    after = report.details[f"classify p99 ms, the latest of {count}"]
    memory = report.details["server memory with them, MB"]
    assert isinstance(before, float)
    assert isinstance(after, float)
    return Reading(
        f"{count:,} sessions: {memory:,.0f} MB; p99 {before:.1f} -> {after:.1f} ms",
        count >= 10_000 and after <= 1.25 * before,
        (),  # both are of single requests, thousands of them: no row is looked at
    )


def _row(report: Report, name: str) -> Row:
    (found,) = [row for row in report.rows if row.name == name]
    return found


GOALS = (
    Goal("adapt + predict, CPU: throughput", ">= 2.5x the best peer", "adapt", _at_least("ratio_to_best_peer", 2.5)),
    Goal(
        "adapt + predict, CPU: throughput",
        ">= 95% of the fp32 GEMM floor",
        "adapt",
        _at_least("fraction_of_floor", 0.95, "{:.0%}"),
    ),
    Goal(
        "adapt + predict, CPU: one task alone",
        ">= 2x the best peer",
        "adapt",
        _at_least("latency_ratio_to_best_peer", 2.0),
    ),
    Goal("adapt + predict, ONNX Runtime: one task alone", "no longer than torch's", "adapt", _without_torch),
    Goal("adapt + predict, GPU", ">= 10,000 adaptations/s", "adapt-cuda", _rate("kshot", 10_000)),
    Goal("adapt + predict, GPU", ">= 50x the best peer", "adapt-cuda", _at_least("ratio_to_best_peer", 50)),
    Goal(
        "classify, 256 sessions in one batch, GPU",
        ">= 50x the loop over sessions",
        "classify-cuda",
        _at_least("ratio_to_best_peer", 50),
    ),
    Goal("meta-training, second order, CPU", ">= 2x the best peer", "train", _at_least("ratio_to_best_peer", 2)),
    Goal("meta-training, second order, GPU", ">= 30x the best peer", "train-cuda", _at_least("ratio_to_best_peer", 30)),
    Goal(
        "memory of a 5-step second-order task",
        "<= half of the best peer's",
        "memory",
        lambda report: (
            None
            if report.ratio_to_best_peer is None
            else Reading(f"{1 / report.ratio_to_best_peer:.2f} of it", report.ratio_to_best_peer >= 2)
        ),
    ),
    Goal(
        "the same, steps recomputed instead of kept",
        "<= half of the best peer's",
        "memory",
        _detail("best peer over kshot recomputed", "1/{:.2f} of it", lambda ratio: ratio >= 2),
    ),
    Goal(
        "memory of recomputed steps, 10 to 100 of them",
        "O(sqrt n): 3.2x",
        "memory",
        # A tenth more for what does not shrink with the segments: weights, and the libraries' own.
        _detail("growth of kshot recomputed from 10 to 100 steps", "{:.2f}x", lambda growth: growth <= 3.16 * 1.1),
    ),
    Goal(
        "memory of iMAML, 10 to 100 inner steps",
        "flat",
        "memory",
        _detail("growth of kshot iMAML from 10 to 100 steps", "{:.2f}x", lambda growth: growth <= 1.1),
    ),
    Goal(
        "HTTP, saturated", ">= 85% of the engine in process", "serve", _at_least("ratio_to_best_peer", 0.85, "{:.0%}")
    ),
    Goal("HTTP, adapt alone: p50", "<= 1.3x in process", "serve", _adapt_over_http),
    Goal(
        "HTTP, 70% load, requests at random: p99",
        "<= 3x p50",
        "serve",
        _under_load,
    ),
    Goal(
        "HTTP, cached classify of one image",
        ">= 1,500 requests/s",
        "serve",
        _detail(
            "cached classify, requests/s",
            "{:,.0f}/s",
            lambda rate: rate >= 1500,
            spreads=("cached classify, spread",),
        ),
    ),
    Goal(
        "start to ready, shipped models",
        "< 5 s",
        "serve",
        _detail("seconds from start to ready, shipped models", "{:.1f} s", lambda seconds: seconds < 5, spreads=()),
    ),
    Goal("10,000 live sessions", "p99 of classify unchanged", "serve-sessions", _sessions),
)
