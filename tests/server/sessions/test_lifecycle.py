"""Using a session renews its life, when that is due."""

from __future__ import annotations

import pytest

from kshot_server.sessions.lifecycle import use_session
from kshot_server.sessions.stores.base import renewal_due
from kshot_server.sessions.stores.memory import MemoryStore

from .conftest import NOW, Clock, make_record

pytestmark = pytest.mark.anyio


async def test_a_use_renews_once_a_quarter_of_the_life_is_gone() -> None:
    clock = Clock()
    store = MemoryStore(1 << 20, monotonic=clock, wall=clock)
    record = make_record(ttl_seconds=1000)
    await store.put(record)
    expected = []
    for step in (249, 0.5, 1, 100, 200):
        await clock.sleep(step)
        used = await use_session(store, "acme", record.info.id, clock=clock)
        assert used is not None
        expected.append(used.info.expires_at - NOW)
    # At 249 and 249.5 nothing is due; at 250.5 it is; at 350.5 not again; at 550.5 it is.
    assert expected == [1000, 1000, 1250.5, 1250.5, 1550.5]


async def test_looking_is_not_using() -> None:
    clock = Clock()
    store = MemoryStore(1 << 20, monotonic=clock, wall=clock)
    record = make_record(ttl_seconds=1000)
    await store.put(record)
    await clock.sleep(900)
    await store.get("acme", record.info.id)
    await clock.sleep(101)
    assert await store.get("acme", record.info.id) is None


async def test_what_is_not_there_is_not_used() -> None:
    store = MemoryStore(1 << 20)
    assert await use_session(store, "acme", make_record().info.id) is None


@pytest.mark.parametrize(("left", "due"), [(1000, False), (751, False), (750, True), (1, True), (-5, True)])
async def test_when_a_renewal_is_due(left: float, due: bool) -> None:
    assert renewal_due(NOW + left, 1000, NOW) is due
