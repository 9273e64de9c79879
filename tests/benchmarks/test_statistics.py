"""Medians, spreads, turns, and when a machine is too noisy."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time

import numpy as np
import pytest

from kshot_bench.contest import window
from kshot_bench.errors import TooNoisy
from kshot_bench.noise import LoadMeter, judge, tree_seconds
from kshot_bench.queueing import slow_over_usual
from kshot_bench.statistics import interleave, median, percentile, spread


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).normal(size=37).tolist()
    for share in (0.0, 0.25, 0.5, 0.75, 0.99, 1.0):
        assert percentile(values, share) == pytest.approx(np.quantile(values, share))
    assert median(values) == np.median(values)
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 0.5)


def test_spread_ignores_one_hiccup() -> None:
    assert spread([10.0, 10.0, 10.0, 10.0, 500.0]) == 0
    assert spread([8.0, 9.0, 10.0, 11.0, 12.0]) == pytest.approx(0.2)


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    clock = itertools.count()

    def side(name: str) -> object:
        def measured() -> float:
            calls.append(name)
            return float(next(clock))

        return measured

    figures = interleave({"a": side("a"), "b": side("b")}, 3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert figures == {"a": [2, 5, 6], "b": [3, 4, 7]}


def test_a_window_is_sized_by_its_second_task() -> None:
    counts: list[int] = []

    def run(count: int) -> float:
        counts.append(count)
        return (10.0 if len(counts) == 1 else 0.25) * count  # the first one is slow

    measured = window(run, 1.0)
    assert [measured(), measured()] == [0.25, 0.25]
    assert counts == [1, 1, 4, 4]


def test_windows_are_whole_batches() -> None:
    counts: list[int] = []

    def run(count: int) -> float:
        counts.append(count)
        return 0.25 * count

    window(run, 1.0, multiple=3)()
    assert counts == [1, 1, 6]


def test_processor_time_counts_children() -> None:
    before = tree_seconds()
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert tree_seconds() - before > 0.25


def test_a_quiet_machine_is_believed() -> None:
    noise = judge({"kshot": [1.0, 1.01, 1.02], "higher": [2.0, 2.1, 2.0]}, 0.01, allow_noise=False)
    assert not noise.noisy
    assert noise.spread == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("figures", "load", "reason"),
    [
        ({"kshot": [1.0, 1.0, 1.0], "higher": [1.0, 2.0, 3.0]}, 0.0, "repetitions of higher spread by 50%"),
        ({"kshot": [1.0, 1.0]}, 0.5, "other processes used 50% of the cores"),
        ({}, 0.5, "other processes"),
    ],
)
def test_a_noisy_machine_is_refused_or_marked(figures: dict[str, list[float]], load: float, reason: str) -> None:
    with pytest.raises(TooNoisy, match=reason):
        judge(figures, load, allow_noise=False)
    noise = judge(figures, load, allow_noise=True)
    assert noise.noisy
    assert reason in noise.reasons[0]


def test_own_work_is_not_the_load_of_others() -> None:
    before = time.process_time()
    meter = LoadMeter()
    while time.process_time() < before + 0.2:
        pass
    assert 0 <= meter.others() <= 1


def test_a_queue_of_one_server_waits_as_erlang_says() -> None:
    """Erlang, 1909: P(wait <= t) = (1 - load) sum over k <= t of (load (k - t))^k / k! exp(-load (k - t))."""
    load = 0.7

    def at_most(wait: float) -> float:
        terms = [
            (load * (k - wait)) ** k / math.factorial(k) * math.exp(load * (wait - k)) for k in range(int(wait) + 1)
        ]
        return (1 - load) * sum(terms)

    def quantile(share: float) -> float:
        return next(wait for wait in np.arange(0, 20, 0.001) if at_most(wait) >= share)

    expected = (quantile(0.99) + 1) / (quantile(0.5) + 1)
    assert slow_over_usual(load, 1) == pytest.approx(expected, rel=0.04)


def test_a_queue_of_many_servers_does_not_wait() -> None:
    assert slow_over_usual(0.3, 64) == pytest.approx(1.0, abs=0.01)
    assert 1.0 < slow_over_usual(0.7, 2) < slow_over_usual(0.7, 1)
