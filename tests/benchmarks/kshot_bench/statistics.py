"""Medians and spreads of repetitions. A mean would carry every hiccup of the machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

__all__ = ["interleave", "median", "percentile", "spread"]

median: Callable[[Sequence[float]], float] = statistics.median


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, interpolated linearly.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("expected at least one value")
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def spread(values: Sequence[float]) -> float:
    """The interquartile range as a share of the median: half of the repetitions lie within it."""
    return (percentile(values, 0.75) - percentile(values, 0.25)) / median(values)


def interleave(sides: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Measure all sides by turns, so that whatever slows the machine for a while slows all of them.

    A first round is thrown away: it pays for caches, compilation and threads. Every second round goes backwards, so
    that no side always follows the same other one.

    Args:
        sides: name -> a window of work that answers its figure.
        repetitions: rounds that count.
    """
    for window in sides.values():
        window()
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        names = list(sides)[:: 1 if repetition % 2 == 0 else -1]
        for name in names:
            figures[name].append(sides[name]())
    return figures
