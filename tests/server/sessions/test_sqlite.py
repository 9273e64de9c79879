"""The disk store's own promises: it outlives the process, is shared by processes, and fails as promised."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kshot_server.sessions.codec import encode_record
from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.stores.sqlite import SqliteStore

from .conftest import make_record

pytestmark = pytest.mark.anyio


async def test_sessions_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    record = make_record()
    first = SqliteStore(path)
    key = await first.session_key()
    await first.put(record)
    await first.close()
    second = SqliteStore(path)
    got = await second.get("acme", record.info.id)
    assert got is not None
    assert encode_record(got) == encode_record(record)
    assert await second.session_key() == key
    await second.close()


async def test_a_killed_process_leaves_what_it_had_answered_for(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from tests.server.sessions.conftest import make_record
from kshot_server.sessions.stores.sqlite import SqliteStore
async def main():
    store = SqliteStore(Path({str(path)!r}))
    for seed in range(10**6):
        await store.put(make_record(seed))
        print(seed, flush=True)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answered = [int(process.stdout.readline()) for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        answered += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    store = SqliteStore(path)
    for seed in answered:
        got = await store.get("acme", make_record(seed).info.id)
        assert got is not None
        assert encode_record(got) == encode_record(make_record(seed))
    await store.close()


async def test_two_processes_worth_of_stores_share_a_file(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "sessions.db") for _ in range(2)]
    assert len(set(await asyncio.gather(*(store.session_key() for store in stores)))) == 1
    created = await asyncio.gather(*(store.put(make_record(i % 10)) for i in range(40) for store in stores))
    assert sum(created) == 10
    assert len((await stores[1].list("acme")).sessions) == 10
    for store in stores:
        await store.close()


async def test_a_new_file_can_be_opened_by_many_at_the_same_moment(tmp_path: Path) -> None:
    for attempt in range(60):
        stores = [SqliteStore(tmp_path / f"{attempt}.db") for _ in range(4)]
        assert len(set(await asyncio.gather(*(store.session_key() for store in stores)))) == 1
        for store in stores:
            await store.close()


@pytest.mark.parametrize(
    ("value", "known"),
    [(b"", False), (b"garbage", False), ("text", False), (7, False), (encode_record(make_record(5)), False)],
)
async def test_damaged_rows_are_misses_and_heal(tmp_path: Path, value: object, known: bool) -> None:
    path = tmp_path / "sessions.db"
    record, other = make_record(1), make_record(2)
    store = SqliteStore(path)
    await store.put(record)
    await store.put(other)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sessions SET record = ? WHERE id = ?", (value, record.info.id))
    connection.close()
    assert await store.get("acme", record.info.id) is None
    assert store.counters.corrupt_records == 1
    assert [info.id for info in (await store.list("acme")).sessions] == [other.info.id]
    assert await store.put(record) is True
    assert await store.get("acme", record.info.id) is not None
    await store.close()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(b"not a database at all" * 100)
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="SQLITE_NOTADB"):
            await store.put(make_record())
    assert store.counters.failures == 2
    path.unlink()
    assert await store.put(make_record()) is True
    await store.close()


async def test_a_full_disk_is_unavailable_and_known_sessions_go_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "sessions.db")
    record = make_record()
    await store.put(record)
    await store._run(lambda: store._connected().execute("PRAGMA max_page_count = 20").fetchall())
    with pytest.raises(StoreUnavailable, match="SQLITE_FULL"):
        await asyncio.gather(*(store.put(make_record(i, size=(50, 50, 3))) for i in range(100)))
    assert await store.get("acme", record.info.id) is not None
    await store._run(lambda: store._connected().execute("PRAGMA max_page_count = 1000000").fetchall())
    assert await store.put(make_record(1000)) is True
    await store.close()


async def test_a_damaged_session_key_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    first = SqliteStore(path)
    await first.session_key()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE settings SET value = x'00'")
    connection.close()
    second = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match="session key"):
        await second.session_key()
    await first.close()
    await second.close()


async def test_expired_rows_leave_the_file(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    store = SqliteStore(tmp_path / "sessions.db", clock=lambda: now)
    for i in range(5):
        await store.put(make_record(i, ttl_seconds=10))
    now += 11
    await store.put(make_record(9))
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (1,)
    connection.close()
    await store.close()
