"""Errors of the sessions, apart from what a client did wrong (`kshot_server.errors.InputError`).

SessionError
├── InvalidRecord         bytes are not a session record: a store treats them as a miss
└── StoreError
    ├── StoreUnavailable  the store does not answer, or not in time, or refuses to write: try again later
    └── StoreNotUsable    the URL names no store, or its extra is not installed: a mistake of the operator
"""

from __future__ import annotations

__all__ = ["InvalidRecord", "SessionError", "StoreError", "StoreNotUsable", "StoreUnavailable"]


class SessionError(Exception):
    """Anything that goes wrong with sessions."""


class InvalidRecord(SessionError):  # noqa: N818 - reads as the state it names, like the tree of kshot_models
    """Bytes from a store are not a session record; the message says in which way."""


class StoreError(SessionError):
    """A session store cannot do what was asked."""


class StoreUnavailable(StoreError):  # noqa: N818 - as above
    """The store does not answer, answers too late or refuses to write; later it may work again."""


class StoreNotUsable(StoreError):  # noqa: N818 - as above
    """A store cannot be opened as configured; waiting will not help."""
