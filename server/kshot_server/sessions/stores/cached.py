"""A remote store with copies of what this process uses: known sessions go on when the store is away.

    put    into the store; while it is away, a volatile session is kept here alone, and a known one stays known
    get    from here, if the store says that the session still lives (a look of some bytes); else from the store;
           while it is away, from here

The store stays the truth: what it has forgotten is dropped here too, or a session deleted on one replica would live on
in the others. Only volatile sessions that it never got are handed to it when it is back.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.record import SessionRecord, merge
from kshot_server.sessions.stores.base import Page, SessionStore
from kshot_server.sessions.stores.memory import record_bytes

__all__ = ["CachedStore"]

_Key = tuple[str, str]  # tenant, session


class CachedStore:
    """A SessionStore in front of another.

    Args:
        store: the truth.
        max_bytes: most bytes of copies.
        wall: unix seconds.
    """

    def __init__(self, store: SessionStore, max_bytes: int, *, wall: Callable[[], float] = time.time) -> None:
        self.counters = store.counters
        self.size_bytes = 0
        self._store = store
        self._max_bytes = max_bytes
        self._wall = wall
        self._copies: OrderedDict[_Key, SessionRecord] = OrderedDict()  # the least recently used first
        self._unsaved: set[_Key] = set()  # volatile sessions that the store has not got yet

    async def session_key(self) -> bytes:
        """See SessionStore."""
        return await self._store.session_key()

    async def put(self, record: SessionRecord) -> bool:
        """See SessionStore. While the store is away, only known and volatile sessions are taken."""
        key = (record.info.tenant, record.info.id)
        try:
            created = await self._store.put(record)
        except StoreUnavailable:
            if not self._takes(key, record):
                raise
            return self._put_here(key, record)
        self._unsaved.discard(key)
        if created:
            self._keep(key, record)
        return created

    async def get(self, tenant: str, session: str) -> SessionRecord | None:
        """See SessionStore."""
        key = (tenant, session)
        copy = self._copy(key)
        if copy is None:
            return await self._fetch(key)
        try:
            return await (self._save(key, copy) if key in self._unsaved else self._confirm(key, copy))
        except StoreUnavailable:
            self.counters.fallbacks += 1
            return copy

    async def expires_at(self, tenant: str, session: str) -> float | None:
        """See SessionStore."""
        record = await self.get(tenant, session)
        return None if record is None else record.info.expires_at

    async def touch(self, tenant: str, session: str, ttl_seconds: int) -> float | None:
        """See SessionStore. While the store is away, the copy here lives on."""
        key = (tenant, session)
        try:
            expires_at = await self._store.touch(tenant, session, ttl_seconds)
        except StoreUnavailable:
            if self._copy(key) is None:
                raise
            self.counters.fallbacks += 1
            return self._renew(key, self._wall() + ttl_seconds)
        if expires_at is None and key in self._unsaved:
            return self._renew(key, self._wall() + ttl_seconds)
        if expires_at is None:
            self._drop(key)
            return None
        return self._renew(key, expires_at)

    async def delete(self, tenant: str, session: str) -> bool:
        """See SessionStore. While the store is away, only what it never got can be deleted."""
        key = (tenant, session)
        only_here = key in self._unsaved and self._copy(key) is not None
        try:
            deleted = await self._store.delete(tenant, session)
        except StoreUnavailable:
            if not only_here:
                raise
            deleted = True
        self._drop(key)
        return deleted or only_here

    async def list(self, tenant: str, *, model: str | None = None, cursor: str | None = None, limit: int = 50) -> Page:
        """See SessionStore. Lists what the store has."""
        return await self._store.list(tenant, model=model, cursor=cursor, limit=limit)

    async def ping(self) -> None:
        """See SessionStore."""
        await self._store.ping()

    async def close(self) -> None:
        """See SessionStore."""
        await self._store.close()

    def _takes(self, key: _Key, record: SessionRecord) -> bool:
        """Whether a session can be taken while the store is away: it may be lost, or the store has it already."""
        saved = self._copy(key) is not None and key not in self._unsaved
        return saved or (record.info.durability == "volatile" and record_bytes(record) <= self._max_bytes)

    def _put_here(self, key: _Key, record: SessionRecord) -> bool:
        self.counters.fallbacks += 1
        copy = self._copy(key)
        if copy is not None:
            self._keep(key, merge(copy, record))
            return False
        self._unsaved.add(key)
        self._keep(key, record)
        return True

    async def _fetch(self, key: _Key) -> SessionRecord | None:
        record = await self._store.get(*key)
        if record is None:
            self._drop(key)
            return None
        return self._keep(key, record)

    async def _confirm(self, key: _Key, copy: SessionRecord) -> SessionRecord | None:
        expires_at = await self._store.expires_at(*key)
        if expires_at is None:
            self._drop(key)
            return None
        if expires_at > self._wall() + copy.info.ttl_seconds + 1:
            return await self._fetch(key)  # another replica put it again with a longer life
        return self._keep(key, copy.expiring(expires_at))

    async def _save(self, key: _Key, copy: SessionRecord) -> SessionRecord | None:
        await self._store.put(copy)
        if key not in self._copies:  # deleted while it was on its way
            await self._store.delete(*key)
            return None
        self._unsaved.discard(key)
        return copy

    def _copy(self, key: _Key) -> SessionRecord | None:
        copy = self._copies.get(key)
        if copy is not None and copy.info.expires_at <= self._wall():
            self._drop(key)
            return None
        return copy

    def _keep(self, key: _Key, record: SessionRecord) -> SessionRecord:
        if record_bytes(record) <= self._max_bytes:
            self._forget(key)
            self._copies[key] = record
            self.size_bytes += record_bytes(record)
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._copies)))
        return record

    def _renew(self, key: _Key, expires_at: float) -> float:
        copy = self._copy(key)
        if copy is None:
            return expires_at
        return self._keep(key, copy.expiring(max(expires_at, copy.info.expires_at))).info.expires_at

    def _drop(self, key: _Key) -> None:
        self._forget(key)
        self._unsaved.discard(key)

    def _forget(self, key: _Key) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            self.size_bytes -= record_bytes(copy)
