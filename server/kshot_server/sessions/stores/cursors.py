"""Cursors of session lists: the place after which the next page begins.

Lists are ordered by (created_ms, id), downwards. A cursor is such a pair, so it stays good when the session that it
names is gone, in every store, and on every replica.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kshot_server.errors import InputError

__all__ = ["MAX_LIMIT", "Place", "check_limit", "cursor_after", "parse_cursor"]

MAX_LIMIT = 1000
_CURSOR = re.compile(r"c([0-9]{1,15})-(s_[0-9a-f]{32})")


class Place(NamedTuple):
    """A session's place in the lists: they go downwards."""

    created_ms: int
    session: str


def cursor_after(place: Place) -> str:
    """The cursor of what follows `place`."""
    return f"c{place.created_ms}-{place.session}"


def parse_cursor(cursor: str | None) -> Place | None:
    """The place that a cursor names, None for None: begin with the newest.

    Raises:
        InputError: `invalid_parameter`: it is not one of ours.
    """
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InputError(
            "invalid_parameter",
            "The cursor is not one that this server gave.",
            expected="the next_cursor of an earlier answer",
            received=f"{len(cursor)} characters",
            action="Leave the cursor out to begin with the newest session.",
        )
    return Place(int(match[1]), match[2])


def check_limit(limit: int) -> int:
    """`limit` if a page may be that long.

    Raises:
        InputError: `invalid_parameter`: it is not 1 to 1,000.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InputError("invalid_parameter", "The limit is out of range.", f"1 to {MAX_LIMIT}", str(limit))
    return limit
