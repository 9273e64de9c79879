"""The table of stores: which URL opens which, with what settings, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kshot_server.sessions.errors import StoreNotUsable, StoreUnavailable
from kshot_server.sessions.stores.base import StoreCounters
from kshot_server.sessions.stores.cached import CachedStore
from kshot_server.sessions.stores.memory import MemoryStore
from kshot_server.sessions.stores.sqlite import SqliteStore
from kshot_server.sessions.stores.table import STORES, describe_url, open_store
from kshot_server.settings import Settings

from .conftest import BATTERY, make_record
from .redis_server import RedisServer

pytestmark = pytest.mark.anyio


async def test_every_scheme_has_a_row_in_the_battery() -> None:
    """So a store cannot be added without the tests that all stores pass."""
    assert frozenset().union(*(row.schemes for row in BATTERY.values())) == STORES.keys()


async def test_the_scheme_names_the_store(tmp_path: Path) -> None:
    for url, kind in [
        ("memory", MemoryStore),
        (f"sqlite:{tmp_path}/sessions.db", SqliteStore),
        ("redis://127.0.0.1:1/0", CachedStore),
        ("rediss://user:secret@127.0.0.1:1/0", CachedStore),
        ("unix:///nowhere.sock", CachedStore),
    ]:
        store = open_store(url)
        assert isinstance(store, kind)
        assert store.counters == StoreCounters()
        await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory:x",
        "memory://",
        "mongodb://x",
        "sqlite:",
        "sqlite:/no/such/folder/x.db",
        "sqlite:/",
        "redis://h:port",
        "os.system",
    ],
)
async def test_what_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(StoreNotUsable):
        open_store(url)


async def test_errors_name_the_known_stores() -> None:
    with pytest.raises(StoreNotUsable, match=", ".join(STORES)):
        open_store("mongodb://x")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory", "memory"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("rediss://user:p@ss@cache:6379/0?password=secret", "rediss://***@cache:6379/0"),
        ("redis://:secret@cache", "redis://***@cache"),
        ("sqlite:/var/lib/kshot.db", "sqlite:/var/lib/kshot.db"),
    ],
)
async def test_a_url_in_a_log_has_no_secrets(url: str, shown: str) -> None:
    assert describe_url(url) == shown


async def test_secrets_are_in_no_error() -> None:
    for url in ("mongodb://user:hunter2@x", "redis://user:hunter2@host:port"):
        with pytest.raises(StoreNotUsable) as caught:
            open_store(url)
        assert "hunter2" not in str(caught.value)


async def test_stores_take_their_settings_from_the_servers(redis: RedisServer) -> None:
    """One default for each, in settings.py."""
    memory = open_store("memory", Settings(store_bytes=12_345))
    assert isinstance(memory, MemoryStore)
    assert memory._max_bytes == 12_345
    cached = open_store(redis.url, Settings(record_cache_bytes=23_456, store_timeout=7.0))
    assert isinstance(cached, CachedStore)
    assert cached._max_bytes == 23_456
    assert cached._store._link._timeout_seconds == 7.0
    await cached.close()


async def test_a_store_that_is_down_can_be_opened() -> None:
    store = open_store("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        await store.put(make_record())
    await store.close()


async def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    for module in ("redis", "redis_link"):
        monkeypatch.delitem(sys.modules, f"kshot_server.sessions.stores.{module}", raising=False)
    with pytest.raises(StoreNotUsable, match=r"kshot\[redis\]"):
        open_store("redis://127.0.0.1")
