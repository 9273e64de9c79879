"""Who is let in: a bound on the requests in work, and a rate for each tenant. Both refuse at once, neither queues.

Counts belong to one API process and are touched by its event loop alone, so there is no lock.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from kshot_server.faults import Fault

__all__ = ["Admission", "RateLimiter"]

_MAX_TENANTS = 10_000


class Admission:
    """A permit for each request in work."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_flight = 0

    def enter(self) -> None:
        """Take a permit.

        Raises:
            Fault: `overloaded`, there is none left. Nothing was done for the request, its body was not read.
        """
        if self.in_flight >= self._limit:
            raise Fault(
                "overloaded",
                f"{self._limit} requests are in work, which is this server's limit.",
                action="Wait as long as Retry-After says and send the request again.",
                retry_after=1,
            )
        self.in_flight += 1

    def leave(self) -> None:
        """Give a permit back."""
        self.in_flight -= 1


class RateLimiter:
    """A token bucket for each tenant: `rate` requests a second, bursts of up to twice that (at least one)."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: rate, requests a second, 0 for no limit; clock, seconds."""
        self._rate = rate
        self._burst = max(1.0, 2 * rate)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tenant -> tokens, when counted

    def take(self, tenant: str) -> None:
        """Count one request of `tenant`.

        Raises:
            Fault: `rate_limited`, its bucket is empty.
        """
        if self._rate == 0:
            return
        now = self._clock()
        tokens, counted_at = self._buckets.pop(tenant, (self._burst, now))
        tokens = min(self._burst, tokens + (now - counted_at) * self._rate)
        granted = tokens >= 1
        self._buckets[tenant] = (tokens - 1 if granted else tokens, now)
        if len(self._buckets) > _MAX_TENANTS:
            # The tenant that was quiet longest; its bucket has long been full again.
            self._buckets.popitem(last=False)
        if not granted:
            raise Fault(
                "rate_limited",
                f"This tenant may send {self._rate:g} requests a second and has sent more.",
                action="Wait as long as Retry-After says and send the request again.",
                retry_after=math.ceil((1 - tokens) / self._rate),
            )
