"""The memory store's own promises: its bound, who has to go, and its clock."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.record import SessionRecord
from kshot_server.sessions.stores.memory import MemoryStore, record_bytes

from .conftest import NOW, Clock, make_record

pytestmark = pytest.mark.anyio

ONE = record_bytes(make_record())


def room_for(records: int, clock: Clock | None = None) -> MemoryStore:
    clock = clock or Clock()
    return MemoryStore(records * ONE, monotonic=clock, wall=clock)


async def held(store: MemoryStore, records: list[SessionRecord]) -> list[int]:
    return [i for i, record in enumerate(records) if await store.expires_at("acme", record.info.id) is not None]


async def test_the_least_recently_used_goes_first() -> None:
    store = room_for(3)
    records = [make_record(i) for i in range(5)]
    for record in records[:3]:
        await store.put(record)
    await store.get("acme", records[0].info.id)
    await store.put(records[3])
    assert store.counters.evictions == 1
    assert await held(store, records) == [0, 2, 3]
    await store.put(records[4])
    assert store.counters.evictions == 2
    assert store.size_bytes == 3 * ONE


async def test_the_expired_go_before_the_living() -> None:
    clock = Clock()
    store = room_for(2, clock)
    records = [make_record(0, ttl_seconds=3600), make_record(1, ttl_seconds=10), make_record(2)]
    await store.put(records[0])
    await store.put(records[1])
    await clock.sleep(11)
    await store.put(records[2])
    assert await held(store, records) == [0, 2]
    assert store.counters.evictions == 0


async def test_what_cannot_fit_is_refused_and_costs_nobody_a_place() -> None:
    store = room_for(2)
    records = [make_record(i) for i in range(2)]
    for record in records:
        await store.put(record)
    with pytest.raises(StoreUnavailable, match="bytes"):
        await store.put(make_record(9, size=(100, 100, 3)))
    assert await held(store, records) == [0, 1]


async def test_deleted_sessions_give_their_room_back() -> None:
    store = room_for(2)
    for i in range(1000):
        record = make_record(i % 7, created_at=NOW + i)
        await store.put(record)
        await store.delete("acme", record.info.id)
    assert store.size_bytes == 0
    assert store.counters.evictions == 0
    # Neither the heap of deadlines nor the index of positions remembers what is gone.
    assert len(store._deadlines) <= 64
    assert not store._positions


async def test_setting_the_machines_clock_changes_no_life() -> None:
    monotonic, wall = Clock(), Clock()
    store = MemoryStore(1 << 20, monotonic=monotonic, wall=wall)
    record = make_record(ttl_seconds=100)
    await store.put(record)
    wall.now += 10**8
    assert await store.expires_at("acme", record.info.id) == wall.now + 100
    wall.now -= 2 * 10**8
    await monotonic.sleep(99)
    assert await store.get("acme", record.info.id) is not None
    await monotonic.sleep(1)
    assert await store.get("acme", record.info.id) is None


async def test_stores_have_keys_of_their_own_unless_told() -> None:
    keys = {await MemoryStore(1).session_key() for _ in range(3)}
    assert len(keys) == 3


async def test_the_estimate_of_a_records_size_is_no_fantasy() -> None:
    store = MemoryStore(1 << 30)
    labels = tuple(f"label {i}" for i in range(20))
    tracemalloc.start()
    try:
        for i in range(300):
            await store.put(make_record(i, labels=labels, size=(28, 28, 1)))
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.5 * store.size_bytes < used < 1.2 * store.size_bytes


async def test_closing_lets_go() -> None:
    store = room_for(2)
    await store.put(make_record())
    await store.close()
    assert store.size_bytes == 0
    assert await store.get("acme", make_record().info.id) is None


def run(coroutine: object) -> object:
    """The value of a coroutine of the memory store: none of them ever waits."""
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)  # type: ignore[attr-defined]
    return done.value.value


class StoreMachine(RuleBasedStateMachine):
    """A store without a bound against a dict of expiry times."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(1 << 30, monotonic=self.clock, wall=self.clock)
        self.model: dict[tuple[str, int], float] = {}

    tenants = st.sampled_from(["acme", "other"])
    seeds = st.integers(0, 5)
    ttls = st.integers(1, 50)

    def record(self, tenant: str, seed: int, ttl_seconds: int = 1) -> SessionRecord:
        return make_record(seed, tenant=tenant, ttl_seconds=ttl_seconds, created_at=NOW + seed, size=(1, 1, 1))

    def known(self, tenant: str, seed: int) -> bool:
        return self.model.get((tenant, seed), 0) > self.clock.now

    @rule(tenant=tenants, seed=seeds, ttl_seconds=ttls)
    def put(self, tenant: str, seed: int, ttl_seconds: int) -> None:
        known = self.known(tenant, seed)
        assert run(self.store.put(self.record(tenant, seed, ttl_seconds))) is not known
        before = self.model[tenant, seed] if known else 0
        self.model[tenant, seed] = max(before, self.clock.now + ttl_seconds)

    @rule(tenant=tenants, seed=seeds, ttl_seconds=ttls)
    def touch(self, tenant: str, seed: int, ttl_seconds: int) -> None:
        expires_at = run(self.store.touch(tenant, self.record(tenant, seed).info.id, ttl_seconds))
        if not self.known(tenant, seed):
            assert expires_at is None
            return
        self.model[tenant, seed] = max(self.model[tenant, seed], self.clock.now + ttl_seconds)
        assert expires_at == self.model[tenant, seed]

    @rule(tenant=tenants, seed=seeds)
    def delete(self, tenant: str, seed: int) -> None:
        assert run(self.store.delete(tenant, self.record(tenant, seed).info.id)) is self.known(tenant, seed)
        self.model.pop((tenant, seed), None)

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def agrees(self) -> None:
        for tenant in ("acme", "other"):
            living = [seed for seed in range(6) if self.known(tenant, seed)]
            for seed in range(6):
                got = run(self.store.get(tenant, self.record(tenant, seed).info.id))
                assert (got is not None) == (seed in living)
            page = run(self.store.list(tenant))
            expected = [self.record(tenant, seed).info.id for seed in reversed(living)]
            assert [info.id for info in page.sessions] == expected  # type: ignore[attr-defined]
        living_count = sum(expires_at > self.clock.now for expires_at in self.model.values())
        assert self.store.size_bytes == living_count * record_bytes(self.record("acme", 0))


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
