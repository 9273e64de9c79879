"""Copies beside a real Redis: what goes on when it is away, and what must not outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from kshot_server.sessions.codec import encode_record
from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.lifecycle import use_session
from kshot_server.sessions.record import SessionRecord
from kshot_server.sessions.stores.cached import CachedStore
from kshot_server.sessions.stores.memory import MemoryStore, record_bytes
from kshot_server.sessions.stores.redis import RedisStore

from .conftest import Clock, make_record
from .redis_server import RedisServer

pytestmark = pytest.mark.anyio

PAUSE = 0.1
ROOM = 1 << 24


def now_record(seed: int = 0, durability: str = "durable", ttl_seconds: int = 3600) -> SessionRecord:
    return make_record(seed, created_at=time.time(), durability=durability, ttl_seconds=ttl_seconds)


def same(one: SessionRecord | None, other: SessionRecord) -> bool:
    return one is not None and encode_record(one) == encode_record(other)


@contextlib.asynccontextmanager
async def replica(server: RedisServer, max_bytes: int = ROOM) -> AsyncIterator[CachedStore]:
    store = CachedStore(RedisStore(server.url, timeout_seconds=0.5, pause_seconds=PAUSE), max_bytes)
    try:
        yield store
    finally:
        await store.close()


async def restart(server: RedisServer) -> None:
    server.start()
    await asyncio.sleep(2 * PAUSE)


async def test_known_sessions_go_on_and_new_ones_wait(fragile_redis: RedisServer) -> None:
    async with replica(fragile_redis) as store:
        known = now_record(1)
        await store.put(known)
        fragile_redis.kill()
        for _ in range(5):
            assert same(await store.get("acme", known.info.id), known)
            assert same(await use_session(store, "acme", known.info.id, clock=lambda: time.time() + 3000), known)
        assert await store.put(now_record(1)) is False  # a retry of what is known
        with pytest.raises(StoreUnavailable):
            await store.put(now_record(2))
        with pytest.raises(StoreUnavailable):
            await store.get("acme", now_record(3).info.id)
        for operation in (lambda: store.delete("acme", known.info.id), lambda: store.list("acme"), store.ping):
            with pytest.raises(StoreUnavailable):
                await operation()
        assert same(await store.get("acme", known.info.id), known)
        assert store.counters.fallbacks >= 10


async def test_an_outage_costs_known_sessions_almost_no_time(fragile_redis: RedisServer) -> None:
    async with replica(fragile_redis) as store:
        records = [now_record(i) for i in range(20)]
        for record in records:
            await store.put(record)
        fragile_redis.pause()
        await store.get("acme", records[0].info.id)  # pays the timeout
        began = time.monotonic()
        for record in records:
            assert same(await store.get("acme", record.info.id), record)
        assert time.monotonic() - began < 3.0  # 20 timeouts would be 10 s
        fragile_redis.resume()


async def test_a_volatile_session_is_taken_and_saved_when_the_store_is_back(fragile_redis: RedisServer) -> None:
    async with replica(fragile_redis) as here, replica(fragile_redis) as there:
        await here.ping()
        fragile_redis.kill()
        record = now_record(1, "volatile")
        assert await here.put(record) is True
        assert await here.put(now_record(1, "volatile")) is False
        assert same(await here.get("acme", record.info.id), record)
        assert await here.touch("acme", record.info.id, 3600) == pytest.approx(time.time() + 3600, abs=5)
        with pytest.raises(StoreUnavailable):  # here it may be lost, so this promise cannot be made
            await here.put(now_record(1, "durable"))
        await restart(fragile_redis)
        assert same(await here.get("acme", record.info.id), record)
        assert same(await there.get("acme", record.info.id), record)
        assert await here.put(record) is False


async def test_a_volatile_session_that_is_only_here_can_be_deleted(fragile_redis: RedisServer) -> None:
    async with replica(fragile_redis) as store:
        await store.ping()
        fragile_redis.kill()
        record = now_record(1, "volatile")
        await store.put(record)
        assert await store.delete("acme", record.info.id) is True
        with pytest.raises(StoreUnavailable):
            await store.get("acme", record.info.id)
        await store.put(record)
        await restart(fragile_redis)
        assert await store.touch("acme", record.info.id, 7200) == pytest.approx(time.time() + 7200, abs=5)
        assert await store.delete("acme", record.info.id) is True
        assert await store.get("acme", record.info.id) is None


async def test_what_another_replica_deletes_is_gone_here(redis: RedisServer) -> None:
    async with replica(redis) as here, replica(redis) as there:
        record = now_record()
        await here.put(record)
        assert same(await there.get("acme", record.info.id), record)
        assert await there.delete("acme", record.info.id) is True
        assert await here.get("acme", record.info.id) is None
        assert await here.touch("acme", record.info.id, 60) is None
        assert here.size_bytes == there.size_bytes == 0


async def test_what_the_store_lost_is_not_brought_back_by_a_copy(fragile_redis: RedisServer) -> None:
    # Whether it was lost or deleted cannot be told apart, and what was deleted must stay so.
    async with replica(fragile_redis) as store:
        record = now_record()
        await store.put(record)
        fragile_redis("FLUSHALL")
        assert await store.get("acme", record.info.id) is None
        assert await store.put(record) is True


async def test_a_longer_life_given_elsewhere_is_seen_here(redis: RedisServer) -> None:
    async with replica(redis) as here, replica(redis) as there:
        short, long = now_record(ttl_seconds=100), now_record(ttl_seconds=9000)
        await here.put(short)
        await there.put(long)
        got = await here.get("acme", short.info.id)
        assert got is not None
        assert got.info.ttl_seconds == 9000


async def test_copies_are_bounded() -> None:
    records = [make_record(i, created_at=time.time()) for i in range(10)]
    store = CachedStore(MemoryStore(1 << 24), 3 * record_bytes(records[0]))
    for record in records:
        await store.put(record)
    assert store.size_bytes == 3 * record_bytes(records[0])
    for record in records:
        assert same(await store.get("acme", record.info.id), record)
    assert store.size_bytes == 3 * record_bytes(records[0])


async def test_without_room_nothing_is_copied(fragile_redis: RedisServer) -> None:
    async with replica(fragile_redis, max_bytes=0) as store:
        record = now_record(1)
        await store.put(record)
        assert same(await store.get("acme", record.info.id), record)
        assert store.size_bytes == 0
        fragile_redis.kill()
        with pytest.raises(StoreUnavailable):
            await store.get("acme", record.info.id)
        with pytest.raises(StoreUnavailable):
            await store.put(now_record(2, "volatile"))


async def test_a_copy_does_not_outlive_its_session_while_the_store_is_away(fragile_redis: RedisServer) -> None:
    clock = Clock()
    clock.now = time.time()
    redis_store = RedisStore(fragile_redis.url, timeout_seconds=0.5, pause_seconds=PAUSE)
    store = CachedStore(redis_store, ROOM, wall=clock)
    record = now_record(1, ttl_seconds=100)
    await store.put(record)
    fragile_redis.kill()
    await clock.sleep(99)
    assert await store.get("acme", record.info.id) is not None
    await clock.sleep(2)
    with pytest.raises(StoreUnavailable):
        await store.get("acme", record.info.id)
    await store.close()


async def test_a_touch_of_what_has_no_copy_goes_through(fragile_redis: RedisServer) -> None:
    async with replica(fragile_redis) as here, replica(fragile_redis) as there:
        record = now_record()
        await here.put(record)
        assert await there.touch("acme", record.info.id, 7200) == pytest.approx(time.time() + 7200, abs=5)
        fragile_redis.kill()
        with pytest.raises(StoreUnavailable):
            await there.touch("acme", record.info.id, 7200)


async def test_deleting_while_it_is_being_saved_deletes(fragile_redis: RedisServer) -> None:
    async with replica(fragile_redis) as store:
        await store.ping()
        fragile_redis.kill()
        records = [now_record(i, "volatile") for i in range(20)]
        for record in records:
            await store.put(record)
        await restart(fragile_redis)
        await store.ping()
        for turns, record in enumerate(records):
            saving = asyncio.create_task(store.get("acme", record.info.id))
            for _ in range(turns):
                await asyncio.sleep(0)
            await store.delete("acme", record.info.id)
            await saving
            assert await store.get("acme", record.info.id) is None
