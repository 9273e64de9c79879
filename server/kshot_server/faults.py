"""What the server cannot do just now, as one exception. What the *client* did wrong is `errors.InputError`.

Both carry a stable `code`; problems.py has the one table from code to status.
"""

from __future__ import annotations

__all__ = ["Fault"]


class Fault(Exception):  # noqa: N818 - an "error" is what clients make here; this is the other kind
    """The request may be right, but it is not answered.

    Args:
        code: `overloaded`, `rate_limited`, `draining`, `engine_unavailable`, `store_unavailable`, `deadline_exceeded`,
            `internal_error`.
        detail: one sentence on what is the matter. It names no host, path or other inner thing.
        action: what the client can do about it.
        retry_after: seconds after which a new attempt makes sense, None if none does.
    """

    def __init__(self, code: str, detail: str, action: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(code, detail, action, retry_after)
        self.code = code
        self.detail = detail
        self.action = action
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
