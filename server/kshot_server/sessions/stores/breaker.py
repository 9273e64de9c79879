"""A circuit breaker: after a failure nobody tries for a while, so a dead store costs one timeout and not one each."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """Closed: everyone may try. Open, after a failure: one may try each `pause_seconds`, and a success closes it again.

    Args:
        pause_seconds: time between two tries while it is open.
        clock: monotonic seconds.
    """

    def __init__(self, pause_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._next_try: float | None = None  # None: closed

    def admits(self) -> bool:
        """Whether the caller may try. While it is open that is one caller in each pause."""
        if self._next_try is None:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        # Not a state of its own: should this try neither succeed nor fail (its task was cancelled), another follows.
        self._next_try = now + self._pause_seconds
        return True

    def succeeded(self) -> None:
        """The other side answered: close."""
        self._next_try = None

    def failed(self) -> None:
        """The other side did not answer: open."""
        self._next_try = self._clock() + self._pause_seconds
