"""The disk store: sessions in one SQLite file. They outlive the process; servers of one machine can share the file.

Every statement runs in one thread of the store's own, so the event loop never waits for the disk. Write-ahead logging
lets other processes read while one writes; `synchronous=NORMAL` may lose the last moments in a power cut, but not the
file.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from kshot_server.sessions.codec import PREFIX_BYTES, check_owner, decode_info, decode_record, encode_record, header_end
from kshot_server.sessions.errors import InvalidRecord, StoreUnavailable
from kshot_server.sessions.record import SessionRecord, is_session_id, merge
from kshot_server.sessions.stores.base import Page, StoreCounters
from kshot_server.sessions.stores.cursors import Position, check_limit, cursor_after, parse_cursor

__all__ = ["SqliteStore"]

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    model TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX IF NOT EXISTS sessions_by_creation ON sessions (tenant, created_ms, id);
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_at);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_BUSY_SECONDS = 5.0  # how long to wait for another process that writes
_BUSY_RETRY_SECONDS = 0.01  # between attempts where SQLite itself does not wait
_NEWEST = Position(1 << 62, "")
_KEY_BYTES = 32
_INFO_BYTES = 2048  # read of each record in a list at first: the header of all but very long lists of labels


class SqliteStore:
    """A SessionStore in a file.

    Args:
        path: the file; it is made if it is not there, its folder must be.
        clock: unix seconds. Not monotonic, because expiry has to mean the same after a restart.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.counters = StoreCounters()
        self._path = path
        self._session_key: bytes | None = None
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kshot-sqlite")
        self._connection: sqlite3.Connection | None = None

    async def session_key(self) -> bytes:
        """See SessionStore."""
        if self._session_key is None:
            self._session_key = await self._write(_shared_key)
        return self._session_key

    async def put(self, record: SessionRecord) -> bool:
        """See SessionStore."""
        return await self._write(lambda connection: self._put(connection, record))

    async def get(self, tenant: str, session: str) -> SessionRecord | None:
        """See SessionStore."""
        if not is_session_id(session):
            return None
        return await self._read(lambda connection: self._get(connection, tenant, session))

    async def expires_at(self, tenant: str, session: str) -> float | None:
        """See SessionStore."""
        if not is_session_id(session):
            return None
        return await self._read(lambda connection: self._expires_at(connection, tenant, session))

    async def touch(self, tenant: str, session: str, ttl_seconds: int) -> float | None:
        """See SessionStore."""
        if not is_session_id(session):
            return None
        return await self._write(lambda connection: self._touch(connection, tenant, session, ttl_seconds))

    async def delete(self, tenant: str, session: str) -> bool:
        """See SessionStore."""
        if not is_session_id(session):
            return False
        return await self._write(lambda connection: self._delete(connection, tenant, session))

    async def list(self, tenant: str, *, model: str | None = None, cursor: str | None = None, limit: int = 50) -> Page:
        """See SessionStore."""
        check_limit(limit)
        before = parse_cursor(cursor)
        return await self._read(lambda connection: self._page(connection, tenant, model, before, limit))

    async def ping(self) -> None:
        """See SessionStore."""
        await self._read(lambda connection: connection.execute("SELECT 1 FROM settings").fetchone())

    async def close(self) -> None:
        """See SessionStore."""
        if self._connection is not None:
            await asyncio.wrap_future(self._thread.submit(self._connection.close))
        self._thread.shutdown()

    async def _read(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        return await self._run(lambda: work(self._connected()))

    async def _write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        def transact() -> _Result:
            with self._connected() as connection:  # commits, or rolls back on an exception
                # IMMEDIATE: one that begins by reading fails when another process writes before it does.
                connection.execute("BEGIN IMMEDIATE")
                return work(connection)

        return await self._run(transact)

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.wrap_future(self._thread.submit(work))
        except sqlite3.Error as error:  # disk full, read only, locked for too long, not a database, ...
            self.counters.failures += 1
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            raise StoreUnavailable(f"the session file cannot be used: {name}") from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _connect(self._path)
        return self._connection

    def _put(self, connection: sqlite3.Connection, record: SessionRecord) -> bool:
        now = self._clock()
        connection.execute("DELETE FROM sessions WHERE expires_at <= ?", (now,))
        info = record.info
        existing = self._get(connection, info.tenant, info.id)
        kept = record if existing is None else merge(existing, record)
        expires_at = max(now + info.ttl_seconds, 0.0 if existing is None else existing.info.expires_at)
        row = (info.tenant, info.id, info.model, kept.info.created_ms, expires_at, encode_record(kept))
        connection.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?)", row)
        return existing is None

    def _get(self, connection: sqlite3.Connection, tenant: str, session: str) -> SessionRecord | None:
        query = "SELECT record, expires_at FROM sessions WHERE tenant = ? AND id = ? AND expires_at > ?"
        row = connection.execute(query, (tenant, session, self._clock())).fetchone()
        if row is None:
            return None
        try:
            record = decode_record(_blob(row[0]))
            check_owner(record.info, tenant, session)
        except InvalidRecord as error:
            self._count_corrupt(session, error)
            return None
        return record.expiring(row[1])

    def _expires_at(self, connection: sqlite3.Connection, tenant: str, session: str) -> float | None:
        query = "SELECT expires_at FROM sessions WHERE tenant = ? AND id = ? AND expires_at > ?"
        row = connection.execute(query, (tenant, session, self._clock())).fetchone()
        return None if row is None else float(row[0])

    def _touch(self, connection: sqlite3.Connection, tenant: str, session: str, ttl_seconds: int) -> float | None:
        now = self._clock()
        connection.execute(
            "UPDATE sessions SET expires_at = max(expires_at, ?) WHERE tenant = ? AND id = ? AND expires_at > ?",
            (now + ttl_seconds, tenant, session, now),
        )
        return self._expires_at(connection, tenant, session)

    def _delete(self, connection: sqlite3.Connection, tenant: str, session: str) -> bool:
        known = self._expires_at(connection, tenant, session) is not None
        connection.execute("DELETE FROM sessions WHERE tenant = ? AND id = ?", (tenant, session))
        return known

    def _page(
        self, connection: sqlite3.Connection, tenant: str, model: str | None, before: Position | None, limit: int
    ) -> Page:
        rows = connection.execute(
            "SELECT rowid, id, created_ms, expires_at, substr(record, 1, ?) FROM sessions"
            " WHERE tenant = ? AND (created_ms, id) < (?, ?) AND expires_at > ? AND (? IS NULL OR model = ?)"
            " ORDER BY created_ms DESC, id DESC LIMIT ?",
            (_INFO_BYTES, tenant, *(before or _NEWEST), self._clock(), model, model, limit + 1),
        ).fetchall()
        infos = []
        for rowid, session, _, expires_at, start in rows[:limit]:
            try:
                info = decode_info(_whole_header(connection, rowid, _blob(start)))
                check_owner(info, tenant, session)
            except InvalidRecord as error:
                self._count_corrupt(session, error)
                continue
            infos.append(info.expiring(expires_at))
        if len(rows) <= limit:
            return Page(infos, None)
        return Page(infos, cursor_after(Position(rows[limit - 1][2], rows[limit - 1][1])))

    def _count_corrupt(self, session: str, error: InvalidRecord) -> None:
        self.counters.corrupt_records += 1
        _logger.warning("the record of session %s in the file cannot be read and counts as missing: %s", session, error)


def _connect(path: Path) -> sqlite3.Connection:
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        # isolation_level=None: transactions begin where this file says, not where the module guesses.
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection)
        except sqlite3.Error as error:
            connection.close()
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_RETRY_SECONDS)
        else:
            return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # Two processes that open a new file at the same moment both want to change its journal mode. Neither can wait for
    # the other, so SQLite says "busy" to one of them at once, whatever the timeout: `_connect` tries again.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(_SCHEMA)


def _is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else has the file; extended codes keep the primary one in their low byte."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _shared_key(connection: sqlite3.Connection) -> bytes:
    """The key in the file, made by the first process that asks."""
    row = ("session-key", secrets.token_bytes(_KEY_BYTES))
    connection.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", row)
    (key,) = connection.execute("SELECT value FROM settings WHERE name = ?", row[:1]).fetchone()
    if not isinstance(key, bytes) or len(key) != _KEY_BYTES:
        raise StoreUnavailable("the session key in the session file is damaged; delete its row in settings")
    return key


def _whole_header(connection: sqlite3.Connection, rowid: int, start: bytes) -> bytes:
    if len(start) < PREFIX_BYTES or header_end(start) <= len(start):
        return start
    query = "SELECT substr(record, 1, ?) FROM sessions WHERE rowid = ?"
    (header,) = connection.execute(query, (header_end(start), rowid)).fetchone()
    return _blob(header)


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):  # a column of SQLite takes any type
        raise InvalidRecord("the value is no blob")
    return value
