"""What randomness alone costs: waiting in a queue that adds nothing, and serves each request in exactly the same time.

M/D/c      arrivals by chance, one time for all, c servers; first come, first served
"""

from __future__ import annotations

import heapq

import numpy as np

from kshot_bench.statistics import percentile

__all__ = ["slow_over_usual"]

_REQUESTS = 200_000


def slow_over_usual(load: float, servers: int, *, seed: int = 0) -> float:
    """p99 over p50 of the time from arrival to answer, by simulation; off by some percent.

    Args:
        load: the share of the time that servers work, below 1.
        servers: how many requests are served at once.
        seed: of the arrivals.
    """
    gaps = np.random.default_rng(seed).exponential(1 / (load * servers), _REQUESTS)
    free = [0.0] * servers  # when each server has done what it has
    took = np.empty(_REQUESTS)
    for number, arrived in enumerate(np.cumsum(gaps)):
        answered = max(heapq.heappop(free), arrived) + 1
        heapq.heappush(free, answered)
        took[number] = answered - arrived
    return percentile(took.tolist(), 0.99) / percentile(took.tolist(), 0.5)
