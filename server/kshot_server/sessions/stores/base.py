"""What a session store is. Each store is one file beside this one and one row in table.py.

A store keeps records until nobody has used them for their `ttl_seconds`. Records are immutable and named by their
content, so no operation needs a lock: two replicas that put the same session at the same time put the same thing.

How the HTTP side uses one:

    teach      key = await store.session_key(); record = new_record(key, ...)
               known = await store.get(tenant, id)
                 known    await store.put(record)               `"cached": true`: no inner loop, and `put` renews it
                 None     adapt, then await store.put(record)   False: somebody else was quicker, which is no harm
    classify   record = await use_session(store, tenant, id)     lifecycle.py: get, and renew when that is due
    inspect    await store.get(tenant, id)                       looking is not using: it renews nothing
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kshot_server.sessions.record import SessionInfo, SessionRecord

__all__ = ["Page", "SessionStore", "StoreCounters", "renewal_due"]


class Page(NamedTuple):
    """Some sessions of a tenant, the newest first."""

    sessions: Sequence[SessionInfo]
    next_cursor: str | None  # None: these were the last


@dataclasses.dataclass
class StoreCounters:
    """What happened in a store since it was opened, for /metrics. Each only grows."""

    corrupt_records: int = 0  # records that could not be read, treated as misses
    failures: int = 0  # operations that ended in StoreUnavailable after trying
    refusals: int = 0  # operations that ended in StoreUnavailable without trying: the breaker was open
    evictions: int = 0  # sessions that had to go before their time, for want of room
    index_failures: int = 0  # sessions that were stored but may be missing from lists
    fallbacks: int = 0  # answers from a local copy while the store was away


class SessionStore(Protocol):
    """Keeps session records. Belongs to one event loop; every method may raise StoreUnavailable.

    A session of another tenant is as unknown as one that never was, and finding that out is the same single look-up.
    """

    counters: StoreCounters

    async def session_key(self) -> bytes:
        """The 32 bytes that key session ids: the same for all replicas of this store."""
        ...

    async def put(self, record: SessionRecord) -> bool:
        """Keep a record and let it live `ttl_seconds` from now. True: it is new; False: it was known.

        When this returns, every replica finds it. Of a known session the first record stays, but for what `merge` says;
        nothing makes its life shorter.
        """
        ...

    async def get(self, tenant: str, session: str) -> SessionRecord | None:
        """The record, `info.expires_at` being what the store knows; None: unknown, expired, forgotten or unreadable."""
        ...

    async def expires_at(self, tenant: str, session: str) -> float | None:
        """When a session will go (unix seconds), None if it is not there: `get` without the pixels."""
        ...

    async def touch(self, tenant: str, session: str, ttl_seconds: int) -> float | None:
        """Let a session live `ttl_seconds` from now, if that is longer than it would. Returns as `expires_at`."""
        ...

    async def delete(self, tenant: str, session: str) -> bool:
        """Forget a session. True: it was there."""
        ...

    async def list(self, tenant: str, *, model: str | None = None, cursor: str | None = None, limit: int = 50) -> Page:
        """A tenant's sessions, newest first, at most `limit` (1 to 1,000) of them.

        A session that lives through the whole walk from cursor to cursor is seen exactly once, whatever else comes or
        goes. A page may be short, or even empty, before the last: only `next_cursor` tells the end.

        Raises:
            InputError: `invalid_parameter`: the cursor is not one of ours.
        """
        ...

    async def ping(self) -> None:
        """Return if the store answers."""
        ...

    async def close(self) -> None:
        """Give back connections, files and threads."""
        ...


def renewal_due(expires_at: float, ttl_seconds: int, now: float) -> bool:
    """Whether a use at `now` is worth a write: a quarter of the life is gone since the last renewal.

    So a session that is used all the time costs one write each quarter of its life instead of one for each use.
    """
    return expires_at - now <= 0.75 * ttl_seconds
