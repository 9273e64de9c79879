"""Counting that costs an addition: numbers gather here, and are told to prometheus_client some times a second.

Each request adds to a dozen of its numbers. With several processes each of these is written to a file under a lock,
after its labels were looked up: a tenth of all that a small classification costs. Not thread-safe.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

__all__ = ["CounterTally", "HistogramTally"]

_Labels: TypeAlias = tuple[str, ...]


class CounterTally:
    """Counts for a counter that has labels."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._untold: defaultdict[_Labels, float] = defaultdict(float)

    def add(self, labels: _Labels, count: float = 1) -> None:
        """Count for these values of the labels."""
        self._untold[labels] += count

    def tell(self) -> None:
        """Hand on what was counted since the last time."""
        for labels, count in self._untold.items():
            self._counter.labels(*labels).inc(count)
        self._untold.clear()


class HistogramTally:
    """Observations for a histogram that has labels.

    Args:
        histogram: of prometheus_client.
        bounds: its buckets, ascending, without the infinite one.
    """

    def __init__(self, histogram: Histogram, bounds: tuple[float, ...]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._untold: dict[_Labels, tuple[list[float], list[int]]] = {}  # the sum; how many in each bucket

    def observe(self, labels: _Labels, value: float, times: int = 1) -> None:
        """Observe a number, not NaN, for these values of the labels, once or several times."""
        untold = self._untold.get(labels)
        if untold is None:
            untold = self._untold[labels] = ([0.0], [0] * (len(self._bounds) + 1))
        untold[0][0] += times * value
        untold[1][bisect_left(self._bounds, value)] += times

    def tell(self) -> None:
        """Hand on what was observed since the last time."""
        for labels, ((total,), counts) in self._untold.items():
            child = self._histogram.labels(*labels)
            child._sum.inc(total)  # noqa: SLF001 - it has no public way to take several at once; a test holds this one
            for bucket, count in zip(child._buckets, counts, strict=True):  # noqa: SLF001 - as above
                if count:
                    bucket.inc(count)
        self._untold.clear()
