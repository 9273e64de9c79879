"""What every session store promises. The stores are the rows of BATTERY in conftest.py."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from kshot_server.errors import InputError
from kshot_server.sessions.codec import encode_record
from kshot_server.sessions.record import SessionRecord

from .conftest import NOW, StoreCase, make_record

pytestmark = pytest.mark.anyio


def same(one: SessionRecord | None, other: SessionRecord) -> bool:
    return one is not None and encode_record(one) == encode_record(other)


async def test_what_is_put_is_got(case: StoreCase) -> None:
    record = make_record()
    assert await case.store.get("acme", record.info.id) is None
    assert await case.store.put(record) is True
    assert same(await case.store.get("acme", record.info.id), record)


async def test_a_record_comes_back_with_its_arrays(case: StoreCase) -> None:
    record = make_record(labels=("b", "a", "c", "a"))
    await case.store.put(record)
    got = await case.store.get("acme", record.info.id)
    assert got is not None
    assert got.support.dtype == np.uint8
    assert got.targets.tolist() == [0, 0, 1, 2]
    np.testing.assert_array_equal(got.support, record.support)
    assert not got.support.flags.writeable


async def test_putting_again_says_that_it_was_known_and_keeps_the_first(case: StoreCase) -> None:
    first, second = make_record(created_at=NOW), make_record(created_at=NOW + 100)
    assert first.info.id == second.info.id
    assert [await case.store.put(first), await case.store.put(second)] == [True, False]
    got = await case.store.get("acme", first.info.id)
    assert got is not None
    assert got.info.created_at == NOW


async def test_the_longer_life_and_the_stronger_durability_win(case: StoreCase) -> None:
    for ttl_seconds, durability in ((60, "volatile"), (600, "durable"), (6, "volatile")):
        await case.store.put(make_record(ttl_seconds=ttl_seconds, durability=durability))
    got = await case.store.get("acme", make_record().info.id)
    assert got is not None
    assert (got.info.ttl_seconds, got.info.durability) == (600, "durable")
    now = await seen_now(case)
    assert got.info.expires_at == pytest.approx(now + 600, abs=2)


async def test_another_tenant_sees_nothing_and_changes_nothing(case: StoreCase) -> None:
    record = make_record(tenant="acme")
    await case.store.put(record)
    for tenant in ("other", "acme:session", "acme}", "", "ACME", "acme*"):
        assert await case.store.get(tenant, record.info.id) is None
        assert await case.store.expires_at(tenant, record.info.id) is None
        assert await case.store.touch(tenant, record.info.id, 10**6) is None
        assert await case.store.delete(tenant, record.info.id) is False
        assert (await case.store.list(tenant)).sessions == []
    assert same(await case.store.get("acme", record.info.id), record)


async def test_tenants_with_difficult_names_stay_apart(case: StoreCase) -> None:
    tenants = ["a", "a:session:x", "a}:created", "{a}", "a%3A", "a b", "日本", "a'; DROP TABLE sessions;--", "*"]
    records = [make_record(i, tenant=tenant) for i, tenant in enumerate(tenants)]
    for record in records:
        assert await case.store.put(record) is True
    for record in records:
        page = await case.store.list(record.info.tenant)
        assert [info.id for info in page.sessions] == [record.info.id]


@pytest.mark.parametrize(
    "session", ["", "s_", "../x", "s_" + "0" * 31, "s_" + "G" * 32, "\ud800", "x" * 100_000, "a\nb", "*"]
)
async def test_what_is_no_id_is_not_there(case: StoreCase, session: str) -> None:
    assert await case.store.get("acme", session) is None
    assert await case.store.expires_at("acme", session) is None
    assert await case.store.touch("acme", session, 60) is None
    assert await case.store.delete("acme", session) is False
    await case.store.ping()


async def test_an_unused_session_expires(case: StoreCase) -> None:
    short, long = make_record(1, ttl_seconds=1), make_record(2, ttl_seconds=3600)
    await case.store.put(short)
    await case.store.put(long)
    await case.sleep(1.1)
    assert await case.store.get("acme", short.info.id) is None
    assert await case.store.expires_at("acme", short.info.id) is None
    assert await case.store.touch("acme", short.info.id, 60) is None
    assert await case.store.delete("acme", short.info.id) is False
    assert [info.id for info in (await case.store.list("acme")).sessions] == [long.info.id]
    assert await case.store.put(make_record(1)) is True


async def test_a_touch_renews_and_never_shortens(case: StoreCase) -> None:
    record = make_record(ttl_seconds=2)
    await case.store.put(record)
    now = await seen_now(case)
    assert await case.store.expires_at("acme", record.info.id) == pytest.approx(now + 2, abs=1)
    assert await case.store.touch("acme", record.info.id, 500) == pytest.approx(now + 500, abs=2)
    assert await case.store.touch("acme", record.info.id, 1) == pytest.approx(now + 500, abs=2)
    await case.sleep(2.1)
    got = await case.store.get("acme", record.info.id)
    assert got is not None
    assert got.info.expires_at == pytest.approx(now + 500, abs=3)
    assert got.info.ttl_seconds == 2


async def test_putting_again_renews(case: StoreCase) -> None:
    record = make_record(ttl_seconds=2)
    await case.store.put(record)
    await case.sleep(1.2)
    assert await case.store.put(record) is False
    await case.sleep(1.2)
    assert same(await case.store.get("acme", record.info.id), record)


async def test_deleting_forgets(case: StoreCase) -> None:
    record = make_record()
    await case.store.put(record)
    assert await case.store.delete("acme", record.info.id) is True
    assert await case.store.delete("acme", record.info.id) is False
    assert await case.store.get("acme", record.info.id) is None
    assert (await case.store.list("acme")).sessions == []
    assert await case.store.put(record) is True
    assert len((await case.store.list("acme")).sessions) == 1


async def test_a_list_shows_all_but_the_pixels_newest_first(case: StoreCase) -> None:
    records = [make_record(i, created_at=NOW + i, model=f"m{i % 2}") for i in range(5)]
    for record in records:
        await case.store.put(record)
    page = await case.store.list("acme")
    assert page.next_cursor is None
    assert [info.expiring(0) for info in page.sessions] == [record.info.expiring(0) for record in reversed(records)]
    now = await seen_now(case)
    assert all(info.expires_at == pytest.approx(now + 3600, abs=5) for info in page.sessions)
    of_one_model = await case.store.list("acme", model="m1")
    assert [info.id for info in of_one_model.sessions] == [records[3].info.id, records[1].info.id]
    assert (await case.store.list("acme", model="m9")).sessions == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
async def test_pages_cover_everything_once(case: StoreCase, limit: int) -> None:
    # Three of each millisecond: the order must be complete where creation times are not.
    records = [make_record(i, created_at=NOW + i // 3, size=(1, 1, 1)) for i in range(21)]
    for record in records:
        await case.store.put(record)
    seen = await walk(case, limit)
    assert sorted(seen) == sorted(record.info.id for record in records)
    assert seen == await walk(case, 1000)


async def test_a_cursor_survives_what_comes_and_goes(case: StoreCase) -> None:
    records = [make_record(i, created_at=NOW + i, size=(1, 1, 1)) for i in range(12)]
    for record in records:
        await case.store.put(record)
    first = await case.store.list("acme", limit=4)
    # The session that the cursor names goes, one behind it goes, and newer ones come.
    for gone in (records[8], records[5]):
        await case.store.delete("acme", gone.info.id)
    for i in range(3):
        await case.store.put(make_record(100 + i, created_at=NOW + 100 + i))
    rest = await walk(case, 4, first.next_cursor)
    assert rest == [records[i].info.id for i in (7, 6, 4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    "cursor", ["", "x", "c-", "c1-s_" + "0" * 31, "c" + "9" * 99 + "-s_" + "0" * 32, "\ud800", "c1-*"]
)
async def test_a_cursor_of_others_is_refused(case: StoreCase, cursor: str) -> None:
    with pytest.raises(InputError, match="invalid_parameter"):
        await case.store.list("acme", cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_range_is_refused(case: StoreCase, limit: int) -> None:
    with pytest.raises(InputError, match="invalid_parameter"):
        await case.store.list("acme", limit=limit)


async def test_of_concurrent_puts_one_creates(case: StoreCase) -> None:
    created = await asyncio.gather(*(case.store.put(make_record(7, created_at=NOW + i)) for i in range(20)))
    assert sorted(created) == [False] * 19 + [True]
    assert len((await case.store.list("acme")).sessions) == 1


async def test_reads_beside_deletes_see_all_or_nothing(case: StoreCase) -> None:
    record = make_record(size=(40, 40, 3))

    async def churn() -> None:
        for _ in range(20):
            await case.store.put(record)
            await case.store.delete("acme", record.info.id)

    async def read() -> None:
        for _ in range(40):
            got = await case.store.get("acme", record.info.id)
            assert got is None or same(got, record)

    await asyncio.gather(churn(), read(), read())
    assert case.store.counters.corrupt_records == 0


@pytest.mark.parametrize("pixels", [bytes(12), b"\xff" * 12, b"\r\n\0'\"*{}\x00\x80$5"])
async def test_any_bytes_are_safe(case: StoreCase, pixels: bytes) -> None:
    plain = make_record(labels=("a",), size=(2, 2, 3))
    record = SessionRecord(plain.info, np.frombuffer(pixels, dtype=np.uint8).reshape(1, 2, 2, 3).copy())
    await case.store.put(record)
    assert same(await case.store.get("acme", record.info.id), record)


async def test_any_label_is_safe(case: StoreCase) -> None:
    labels = ("😀", "'; --", '"', "\\", "ß", "a" * 256, "\u202e", "日本語", "{}", "%s", " ")
    record = make_record(labels=labels)
    await case.store.put(record)
    got = await case.store.get("acme", record.info.id)
    assert got is not None
    assert got.info.labels == tuple(sorted(labels))


async def test_long_lists_of_labels_are_listed_whole(case: StoreCase) -> None:
    record = make_record(labels=tuple(f"{i:04d}" + "語" * 200 for i in range(50)), size=(1, 1, 1))
    await case.store.put(record)
    (info,) = (await case.store.list("acme")).sessions
    assert info.labels == record.info.labels


async def test_a_large_record(case: StoreCase) -> None:
    record = make_record(labels=("a", "b") * 50, size=(224, 224, 3))  # 15 MB
    await case.store.put(record)
    assert same(await case.store.get("acme", record.info.id), record)


async def test_the_session_key_stays(case: StoreCase) -> None:
    keys = await asyncio.gather(*(case.store.session_key() for _ in range(5)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32


async def walk(case: StoreCase, limit: int, cursor: str | None = None) -> list[str]:
    """Ids of all pages from a cursor on."""
    ids: list[str] = []
    while True:
        page = await case.store.list("acme", cursor=cursor, limit=limit)
        assert len(page.sessions) <= limit
        ids += [info.id for info in page.sessions]
        cursor = page.next_cursor
        if cursor is None:
            return ids


async def seen_now(case: StoreCase) -> float:
    """The time that the store believes it is."""
    probe = make_record(999, tenant="clock", ttl_seconds=1000)
    await case.store.put(probe)
    expires_at = await case.store.expires_at("clock", probe.info.id)
    assert expires_at is not None
    await case.store.delete("clock", probe.info.id)
    return expires_at - 1000
