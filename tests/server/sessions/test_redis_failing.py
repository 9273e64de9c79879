"""The Redis store when Redis is killed, full, read-only, slow or not Redis at all."""

from __future__ import annotations

import asyncio
import contextlib
import time

import numpy as np
import pytest

from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.lifecycle import use_session
from kshot_server.sessions.record import SessionRecord

from ...ports import free_port
from .conftest import make_record
from .redis_server import RedisServer
from .redis_store import ID, PAUSE, RECORD, opened, same

pytestmark = pytest.mark.anyio


async def test_killed_and_back(fragile_redis: RedisServer) -> None:
    async with opened(fragile_redis.url) as store:
        await store.put(RECORD)
        fragile_redis.kill()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.get("acme", ID)
        fragile_redis.start()
        await asyncio.sleep(PAUSE)
        await store.ping()
        assert await store.get("acme", ID) is None  # it came back empty
        assert await store.put(RECORD) is True
        assert same(await store.get("acme", ID), RECORD)


async def test_killed_and_back_between_two_uses(fragile_redis: RedisServer) -> None:
    async with opened(fragile_redis.url) as store:
        await asyncio.gather(*(store.put(make_record(i)) for i in range(10)))
        fragile_redis.kill()
        fragile_redis.start()
        await asyncio.sleep(0.01)  # the event loop sees that the connections of before are dead
        assert await asyncio.gather(*(store.put(make_record(i)) for i in range(10))) == [True] * 10
        assert store.counters.failures == 0


async def test_a_dead_redis_costs_one_timeout_in_each_pause(fragile_redis: RedisServer) -> None:
    async with opened(fragile_redis.url, timeout_seconds=0.2, pause_seconds=1.0) as store:
        await store.put(RECORD)
        fragile_redis.pause()
        durations = []
        for _ in range(50):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.get("acme", ID)
            durations.append(time.monotonic() - began)
        assert 0.2 <= durations[0] < 2.0
        assert max(durations[1:]) < 0.2
        assert (store.counters.failures, store.counters.refusals) == (1, 49)
        await asyncio.sleep(1.0)
        with pytest.raises(StoreUnavailable):
            await store.get("acme", ID)
        assert store.counters.failures == 2
        fragile_redis.resume()
        await asyncio.sleep(1.0)
        assert same(await store.get("acme", ID), RECORD)
        assert same(await store.get("acme", ID), RECORD)


async def test_after_timeouts_every_answer_belongs_to_its_question(fragile_redis: RedisServer) -> None:
    """An answer that comes too late must not be taken for the next one's: that would be another session's record."""
    records = [make_record(i) for i in range(30)]
    async with opened(fragile_redis.url, timeout_seconds=20.0) as patient:
        await asyncio.gather(*(patient.put(record) for record in records))

    async with opened(fragile_redis.url, timeout_seconds=0.3, pause_seconds=0.01) as store:

        async def read(record: SessionRecord) -> bool:
            try:
                got = await store.get("acme", record.info.id)
            except StoreUnavailable:
                return False
            assert same(got, record)
            return True

        for _ in range(3):
            fragile_redis.pause()
            asked = [asyncio.create_task(read(record)) for record in records]
            await asyncio.sleep(0.05)
            for task in asked[::3]:
                task.cancel()  # clients that hang up
            done = await asyncio.gather(*asked, return_exceptions=True)
            assert all(got is False or isinstance(got, asyncio.CancelledError) for got in done)
            fragile_redis.resume()
            for record in records:
                while not await read(record):
                    await asyncio.sleep(0.02)
        assert fragile_redis("CLIENT", "LIST").count(b"addr=") <= 65


async def test_cancelled_callers_leave_no_connection_behind(redis: RedisServer) -> None:
    records = [make_record(i) for i in range(20)]
    async with opened(redis.url) as store:
        for record in records:
            await store.put(record)
        for round_ in range(40):
            tasks = [asyncio.create_task(store.get("acme", record.info.id)) for record in records]
            for _ in range(round_ % 8):
                await asyncio.sleep(0)
            for task in tasks[round_ % 2 :: 2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for record, got in zip(records, done, strict=True):
                assert isinstance(got, asyncio.CancelledError) or same(got, record)  # type: ignore[arg-type]
        # More at once than there are connections: if some had been lost, these would time out.
        assert len(await asyncio.gather(*(store.get("acme", records[i % 20].info.id) for i in range(200)))) == 200
        assert store.counters.failures == 0


async def test_a_read_only_redis_refuses_new_sessions_and_serves_known_ones(fragile_redis: RedisServer) -> None:
    async with opened(fragile_redis.url) as store:
        await store.put(RECORD)
        fragile_redis("REPLICAOF", "127.0.0.1", free_port())
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"ReadOnly|READONLY"):
                await store.put(make_record(1))
        assert same(await store.get("acme", ID), RECORD)
        assert len((await store.list("acme")).sessions) == 1
        # Used though it cannot be renewed.
        assert same(await use_session(store, "acme", ID, clock=lambda: time.time() + 3000), RECORD)
        with pytest.raises(StoreUnavailable):
            await store.delete("acme", ID)
        assert store.counters.refusals == 0
        fragile_redis("REPLICAOF", "NO", "ONE")
        assert await store.put(make_record(1)) is True


async def test_a_full_redis_refuses_new_sessions_and_serves_known_ones(fragile_redis: RedisServer) -> None:
    async with opened(fragile_redis.url) as store:
        await store.put(RECORD)
        fragile_redis("CONFIG", "SET", "maxmemory", "1")
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"OutOfMemory|OOM"):
                await store.put(make_record(1))
        assert same(await store.get("acme", ID), RECORD)
        assert store.counters.refusals == 0
        fragile_redis("CONFIG", "SET", "maxmemory", "0")
        assert await store.put(make_record(1)) is True


async def test_a_redis_that_evicts_forgets_and_nothing_else(fragile_redis: RedisServer) -> None:
    fragile_redis("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    fragile_redis("CONFIG", "SET", "maxmemory", "4mb")
    async with opened(fragile_redis.url) as store:
        key = await store.session_key()
        records = [make_record(i, size=(100, 100, 3)) for i in range(100)]  # 9 MB
        for record in records:
            assert await store.put(record) is True
        found = [await store.get("acme", record.info.id) for record in records]
        kept = [same(got, record) for got, record in zip(found, records, strict=True) if got is not None]
        assert 0 < len(kept) < 100
        assert all(kept)
        assert store.counters.corrupt_records == 0
    async with opened(fragile_redis.url) as store:
        assert await store.session_key() == key


async def test_nobody_listens() -> None:
    async with opened(f"redis://127.0.0.1:{free_port()}/0") as store:
        began = time.monotonic()
        for operation in (store.ping, store.session_key):
            with pytest.raises(StoreUnavailable):
                await operation()
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"",
        b"\0" * 4096,
        b"+OK\r\n" * 1000,
        b":1\r\n:2\r\n:3\r\n:4\r\n",
        b"$-1\r\n:5000\r\n",
        b"$5\r\nhel",
        b"$99999999999999\r\n",
        b"*-1\r\n",
        b"*9999999\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b":not a number\r\n",
        b"-ERR unknown command\r\n" * 8,
        b"-LOADING Redis is loading the dataset in memory\r\n" * 8,
        b"-NOAUTH Authentication required.\r\n" * 8,
        np.random.default_rng(0).bytes(5000),
    ],
)
async def test_another_server_than_redis_is_a_miss_or_unavailable(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with opened(f"redis://127.0.0.1:{port}/0", timeout_seconds=0.1, pause_seconds=0.0) as store:
            for operation in (
                lambda: store.put(RECORD),
                lambda: store.get("acme", ID),
                lambda: store.expires_at("acme", ID),
                lambda: store.touch("acme", ID, 5),
                lambda: store.delete("acme", ID),
                lambda: store.list("acme"),
                store.session_key,
                store.ping,
            ):
                with contextlib.suppress(StoreUnavailable):
                    await operation()
            with contextlib.suppress(StoreUnavailable):
                assert await store.get("acme", ID) is None
    finally:
        server.close()
