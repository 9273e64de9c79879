"""What a client can do wrong, as one exception.

Whatever reads a client's bytes (images, tensors, labels, cursors) raises `InputError` and nothing else. The HTTP side
turns it into problem+json through one table from `code` to status; nothing here knows HTTP. Errors of the session store
are not the client's doing: they have their own tree in sessions/errors.py.
"""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(Exception):
    """What a client sent cannot be used.

    No field ever holds the client's bytes: an answer must not echo a body.

    Args:
        code: stable name of the problem (`invalid_image`, `invalid_tensor`, ...); clients branch on it.
        detail: one sentence on what is wrong.
        expected: what would have been right.
        received: what came, described and not quoted.
        action: what the client can do about it.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        expected: str | None = None,
        received: str | None = None,
        action: str | None = None,
    ) -> None:
        # All arguments go up: an exception is rebuilt from `args` when it is pickled to another process.
        super().__init__(code, detail, expected, received, action)
        self.code = code
        self.detail = detail
        self.expected = expected
        self.received = received
        self.action = action

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
