"""Cursors of session lists: the position after which the next page begins.

Lists are ordered by (created_ms, id), downwards. A cursor is such a pair, so it stays good when the session that it
names is gone, in every store, and on every replica.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kshot_server.errors import InputError

__all__ = ["MAX_LIMIT", "Position", "check_limit", "cursor_after", "parse_cursor"]

MAX_LIMIT = 1000
_CURSOR = re.compile(r"c([0-9]{1,15})-(s_[0-9a-f]{32})")


class Position(NamedTuple):
    """A session's position in the lists: they go downwards."""

    created_ms: int
    session: str


def cursor_after(position: Position) -> str:
    """The cursor of what follows `position`."""
    return f"c{position.created_ms}-{position.session}"


def parse_cursor(cursor: str | None) -> Position | None:
    """The position that a cursor names, None for None: begin with the newest.

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
    return Position(int(match[1]), match[2])


def check_limit(limit: int) -> int:
    """`limit` if a page may be that long.

    Raises:
        InputError: `invalid_parameter`: it is not 1 to 1,000.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InputError("invalid_parameter", "The limit is out of range.", f"1 to {MAX_LIMIT}", str(limit))
    return limit
