"""What gathers and is told at once is what prometheus_client would have counted one by one."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from kshot_server.tallies import CounterTally, HistogramTally

BOUNDS = (0.25, 1.0, 4.0)


def test_counts() -> None:
    told, plain = CollectorRegistry(), CollectorRegistry()
    tally = CounterTally(Counter("n", "text", ["a", "b"], registry=told))
    counter = Counter("n", "text", ["a", "b"], registry=plain)
    for number in range(20):
        labels = (str(number % 3), "x")
        tally.add(labels, number)
        counter.labels(*labels).inc(number)
        if number in {7, 19}:
            assert generate_latest(told) != generate_latest(plain)
            tally.tell()
            assert _samples(told) == _samples(plain)


def test_observations() -> None:
    told, plain = CollectorRegistry(), CollectorRegistry()
    tally = HistogramTally(Histogram("h", "text", ["a"], buckets=BOUNDS, registry=told), BOUNDS)
    histogram = Histogram("h", "text", ["a"], buckets=BOUNDS, registry=plain)
    draw = random.Random(0)
    values = [0.0, 0.25, 1.0, 4.0, 4.5, 1e9, *(draw.choice((0.125, 0.5, 2.0, 8.0)) for _ in range(50))]
    for number, value in enumerate(values):
        labels, times = ("even" if number % 2 == 0 else "odd",), 1 + number % 3
        tally.observe(labels, value, times)
        for _ in range(times):
            histogram.labels(*labels).observe(value)
        if number in {5, 55}:
            tally.tell()
            tally.tell()  # nothing new
            assert _samples(told) == _samples(plain)


def _samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and labels, without the times at which they were made."""
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
