"""Accuracy and latencies of the episodes so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Latency", "Measurements", "Summary"]


class Latency(NamedTuple):
    """Percentiles of a duration, in milliseconds."""

    p50: float
    p99: float


class Summary(NamedTuple):
    """The numbers of the table. `ci95` is half the width of the accuracy's 95% interval, NaN below two episodes."""

    episodes: int
    accuracy: float
    ci95: float
    adapt_ms: Latency
    classify_ms: Latency

    def as_data(self) -> dict[str, Any]:
        """The same for JSON, which knows no NaN."""
        data: dict[str, Any] = self._asdict()
        data |= {"adapt_ms": self.adapt_ms._asdict(), "classify_ms": self.classify_ms._asdict()}
        return data | {"ci95": None if math.isnan(self.ci95) else self.ci95}


@dataclass
class Measurements:
    """One entry an episode in each list: accuracy 0 to 1, and seconds as the caller waited for them."""

    accuracies: list[float] = field(default_factory=list)
    adapt_seconds: list[float] = field(default_factory=list)
    classify_seconds: list[float] = field(default_factory=list)

    def add(self, accuracy: float, *, adapt_seconds: float, classify_seconds: float) -> None:
        """Count one episode."""
        self.accuracies.append(accuracy)
        self.adapt_seconds.append(adapt_seconds)
        self.classify_seconds.append(classify_seconds)

    def summary(self) -> Summary:
        """The numbers so far; at least one episode must be there."""
        count = len(self.accuracies)
        # The mean over episodes is near enough to normal; within an episode the queries are not independent.
        ci95 = 1.96 * float(np.std(self.accuracies, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
        mean = float(np.mean(self.accuracies))
        return Summary(count, mean, ci95, _latency(self.adapt_seconds), _latency(self.classify_seconds))


def _latency(seconds: Sequence[float]) -> Latency:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return Latency(float(p50), float(p99))
