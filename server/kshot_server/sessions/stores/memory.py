"""The memory store: sessions of one process, gone with it.

Bounded in bytes. Room is made by dropping what has expired, then what has not been used for longest. Time is measured
by the monotonic clock, so setting the machine's clock neither ends sessions nor keeps them.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.record import SessionRecord, merge
from kshot_server.sessions.stores.base import Page, StoreCounters
from kshot_server.sessions.stores.cursors import Position, check_limit, cursor_after, parse_cursor

__all__ = ["MemoryStore", "record_bytes"]

_RECORD_OVERHEAD_BYTES = 2048  # measured: objects, index and heap entries of one session
_LABEL_OVERHEAD_BYTES = 120

_Key = tuple[str, str]  # tenant, session


def record_bytes(record: SessionRecord) -> int:
    """About how many bytes a record takes in memory."""
    labels = sum(_LABEL_OVERHEAD_BYTES + len(label) for label in record.info.labels)
    return record.support.nbytes + labels + _RECORD_OVERHEAD_BYTES


@dataclasses.dataclass
class _Entry:
    record: SessionRecord
    deadline: float  # monotonic seconds


class MemoryStore:
    """A SessionStore in a dict.

    Args:
        max_bytes: most bytes of records.
        monotonic: seconds that never go back.
        wall: unix seconds, for `expires_at` only.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.counters = StoreCounters()
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._session_key = secrets.token_bytes(32)
        self._monotonic = monotonic
        self._wall = wall
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()  # the least recently used first
        self._positions: defaultdict[str, list[Position]] = defaultdict(list)  # by tenant, ascending
        self._deadlines: list[
            tuple[float, _Key]
        ] = []  # a heap; entries are stale once a session was renewed or dropped

    async def session_key(self) -> bytes:
        """See SessionStore."""
        return self._session_key

    async def put(self, record: SessionRecord) -> bool:
        """See SessionStore. A record that is larger than the whole store is StoreUnavailable."""
        self._drop_expired()
        key = (record.info.tenant, record.info.id)
        entry = self._entries.get(key)
        if entry is not None:
            entry.record = merge(entry.record, record)
            self._renew(key, entry, record.info.ttl_seconds)
            return False
        self._make_room(record_bytes(record))
        self._entries[key] = entry = _Entry(record, -1.0)
        self.size_bytes += record_bytes(record)
        bisect.insort(self._positions[record.info.tenant], Position(record.info.created_ms, record.info.id))
        self._renew(key, entry, record.info.ttl_seconds)
        return True

    async def get(self, tenant: str, session: str) -> SessionRecord | None:
        """See SessionStore."""
        entry = self._find(tenant, session)
        return None if entry is None else entry.record.expiring(self._wall_time(entry.deadline))

    async def expires_at(self, tenant: str, session: str) -> float | None:
        """See SessionStore."""
        entry = self._find(tenant, session)
        return None if entry is None else self._wall_time(entry.deadline)

    async def touch(self, tenant: str, session: str, ttl_seconds: int) -> float | None:
        """See SessionStore."""
        entry = self._find(tenant, session)
        if entry is None:
            return None
        self._renew((tenant, session), entry, ttl_seconds)
        return self._wall_time(entry.deadline)

    async def delete(self, tenant: str, session: str) -> bool:
        """See SessionStore."""
        if self._find(tenant, session) is None:
            return False
        self._drop((tenant, session))
        return True

    async def list(self, tenant: str, *, model: str | None = None, cursor: str | None = None, limit: int = 50) -> Page:
        """See SessionStore."""
        check_limit(limit)
        self._drop_expired()
        before = parse_cursor(cursor)
        positions = self._positions.get(tenant, [])
        end = len(positions) if before is None else bisect.bisect_left(positions, before)
        infos = []
        for position in reversed(positions[:end]):
            entry = self._entries[tenant, position.session]
            if model is None or entry.record.info.model == model:
                infos.append(entry.record.info.expiring(self._wall_time(entry.deadline)))
            if len(infos) > limit:
                last = infos[limit - 1]
                return Page(infos[:limit], cursor_after(Position(last.created_ms, last.id)))
        return Page(infos, None)

    async def ping(self) -> None:
        """See SessionStore."""

    async def close(self) -> None:
        """See SessionStore."""
        self._entries.clear()
        self._positions.clear()
        self._deadlines.clear()
        self.size_bytes = 0

    def _find(self, tenant: str, session: str) -> _Entry | None:
        self._drop_expired()
        entry = self._entries.get((tenant, session))
        if entry is not None:
            self._entries.move_to_end((tenant, session))
        return entry

    def _renew(self, key: _Key, entry: _Entry, ttl_seconds: int) -> None:
        deadline = self._monotonic() + ttl_seconds
        if deadline > entry.deadline:
            entry.deadline = deadline
            heapq.heappush(self._deadlines, (deadline, key))
        self._entries.move_to_end(key)
        # Sessions that are made and deleted leave their deadlines behind; without this the heap would grow for ever.
        if len(self._deadlines) > 2 * len(self._entries) + 64:
            self._deadlines = [(entry.deadline, key) for key, entry in self._entries.items()]
            heapq.heapify(self._deadlines)

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise StoreUnavailable(f"the record takes {size_bytes} bytes and the store keeps {self._max_bytes}")
        while self.size_bytes + size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
            self.counters.evictions += 1

    def _drop_expired(self) -> None:
        now = self._monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, key = heapq.heappop(self._deadlines)
            entry = self._entries.get(key)
            if entry is not None and entry.deadline == deadline:
                self._drop(key)

    def _drop(self, key: _Key) -> None:
        info = self._entries[key].record.info
        self.size_bytes -= record_bytes(self._entries.pop(key).record)
        positions = self._positions[info.tenant]
        del positions[bisect.bisect_left(positions, Position(info.created_ms, info.id))]
        if not positions:
            del self._positions[info.tenant]

    def _wall_time(self, deadline: float) -> float:
        return self._wall() + deadline - self._monotonic()
