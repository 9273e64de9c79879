"""What the tests of sessions share: records, a clock to set, a real Redis, and the table of stores for the battery."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kshot_server.sessions.identity import canonicalise, new_record
from kshot_server.sessions.record import SessionRecord
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.sessions.stores.cached import CachedStore
from kshot_server.sessions.stores.memory import MemoryStore
from kshot_server.sessions.stores.redis import RedisStore
from kshot_server.sessions.stores.sqlite import SqliteStore

from .redis_server import RedisServer, running_redis

KEY = bytes(range(32))
DIGEST = "ab" * 32
NOW = 1_700_000_000.0


@pytest.fixture
def anyio_backend() -> str:
    """Async tests (pytest.mark.anyio) run on asyncio, as the server does."""
    return "asyncio"


def make_record(
    seed: int = 0,
    *,
    tenant: str = "acme",
    model: str = "omniglot",
    created_at: float = NOW,
    ttl_seconds: int = 3600,
    durability: str = "durable",
    labels: tuple[str, ...] = ("cat", "dog", "cat"),
    size: tuple[int, int, int] = (4, 5, 3),
) -> SessionRecord:
    """A record whose pixels, and so its id, follow from the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), *size), dtype=np.uint8)
    return new_record(
        KEY,
        tenant,
        (model, "1", DIGEST),
        canonicalise(labels, pixels),
        now=created_at,
        ttl_seconds=ttl_seconds,
        durability=durability,
    )


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class StoreCase:
    """A store under test, and how time passes for it."""

    store: SessionStore
    sleep: Callable[[float], Awaitable[None]]


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A redis-server for the tests that leave it as it is; each begins with it empty."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    shared_redis("FLUSHALL")
    return shared_redis


@pytest.fixture
def fragile_redis() -> Iterator[RedisServer]:
    """A redis-server of the test's own, to break."""
    with running_redis() as server:
        yield server


def _memory(_: pytest.FixtureRequest) -> StoreCase:
    clock = Clock()
    return StoreCase(MemoryStore(1 << 30, monotonic=clock, wall=clock), clock.sleep)


def _sqlite(request: pytest.FixtureRequest) -> StoreCase:
    clock = Clock()
    folder: Path = request.getfixturevalue("tmp_path")
    return StoreCase(SqliteStore(folder / "sessions.db", clock=clock), clock.sleep)


def _redis(request: pytest.FixtureRequest) -> StoreCase:
    server: RedisServer = request.getfixturevalue("redis")
    return StoreCase(RedisStore(server.url, timeout_seconds=5.0), asyncio.sleep)


def _cached_redis(request: pytest.FixtureRequest) -> StoreCase:
    case = _redis(request)
    return StoreCase(CachedStore(case.store, 1 << 30), case.sleep)


class BatteryRow(NamedTuple):
    """A store that the battery runs against."""

    open: Callable[[pytest.FixtureRequest], StoreCase]
    schemes: frozenset[str]
    """The schemes of `table.STORES` that open such a store."""


# A new store gets its tests by a row; test_table.py holds that every scheme is in one.
BATTERY: dict[str, BatteryRow] = {
    "memory": BatteryRow(_memory, frozenset({"memory"})),
    "sqlite": BatteryRow(_sqlite, frozenset({"sqlite"})),
    "redis": BatteryRow(_redis, frozenset()),  # what the next one has inside
    "cached-redis": BatteryRow(_cached_redis, frozenset({"redis", "rediss", "unix"})),
}


@pytest.fixture(params=sorted(BATTERY))
async def case(request: pytest.FixtureRequest) -> AsyncIterator[StoreCase]:
    opened = BATTERY[request.param].open(request)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(opened.store.close)
        yield opened
