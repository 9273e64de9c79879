"""When to try again, and how long to wait before.

Every call may be repeated: sessions are content-addressed, so the same support set leads to the same session, and a
classification changes nothing. Retried are lost connections and the statuses that say "later" (408, 429, 502, 503,
504); never those that say "not like this" (413, 422, ...).

The wait before attempt k + 1 is drawn from [0, min(longest, first * 2^k)] ("full jitter"), so that clients which failed
together do not come back together. A `Retry-After` is waited out first, and the draw comes on top.
"""

from __future__ import annotations

import email.utils
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import SystemRandom

from ._errors import ConfigurationError

__all__ = ["RETRIED_STATUSES", "RetryPolicy", "parse_retry_after"]

RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})

# The system's generator: nothing to seed, nothing shared, and fork-safe.
_RANDOM = SystemRandom()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try again and how long to wait in between.

    Attributes:
        retries: attempts after the first.
        first_seconds: upper end of the first wait; it doubles with each attempt.
        longest_seconds: upper end of any wait.
        longest_retry_after_seconds: a server that asks for more patience than this gets none: its error is raised at
            once, with `retry_after_seconds` on it.
    """

    retries: int = 2
    first_seconds: float = 0.25
    longest_seconds: float = 8.0
    longest_retry_after_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigurationError(f"retries must be 0 or more, not {self.retries}")

    def wait_seconds(
        self, attempt: int, retry_after: float | None = None, *, draw: Callable[[], float] = _RANDOM.random
    ) -> float | None:
        """Seconds to wait after failed attempt `attempt` (from 0), or None to give up. `draw` is uniform in [0, 1)."""
        asked = retry_after or 0.0
        if attempt >= self.retries or asked > self.longest_retry_after_seconds:
            return None
        # 2 ** 1024 is no float; far before that the longest wait decides.
        most = min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempt, 60))
        return asked + draw() * most


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header, which holds either seconds or a date; None when it holds neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
