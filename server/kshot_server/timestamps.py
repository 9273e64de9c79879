"""Times as text, the same in answers and in logs."""

from __future__ import annotations

import datetime

__all__ = ["rfc3339"]


def rfc3339(seconds: float) -> str:
    """Unix seconds as RFC 3339, UTC, to the millisecond: `2026-11-21T09:30:00.000Z`."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
