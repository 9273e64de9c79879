"""The Redis store on a real Redis: the layout of its keys, damage, lists, and how it is reached."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from kshot_server.sessions.codec import encode_record
from kshot_server.sessions.errors import StoreUnavailable

from ...ports import free_port
from .conftest import make_record
from .redis_server import RedisServer, running_redis
from .redis_store import ID, KEY, RECORD, opened, same

pytestmark = pytest.mark.anyio


async def test_the_layout_of_the_keys(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        await store.session_key()
        await store.put(make_record(1, tenant="a b:c}"))
    keys = set(redis("KEYS", "*").split(b"\r\n")[2::2])
    tenant = b"{a%20b%3Ac%7D}"
    session = make_record(1, tenant="a b:c}").info.id.encode()
    assert keys == {
        b"kshot:session-key",
        b"kshot:" + tenant + b":session:" + session,
        b"kshot:" + tenant + b":created",
        b"kshot:" + tenant + b":expires",
    }
    # Everything but the key of ids goes by itself.
    for key in keys - {b"kshot:session-key"}:
        assert int(redis("TTL", key)[1:]) > 0


async def test_replicas_agree_on_one_session_key(redis: RedisServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(redis.url)) for _ in range(8)]
        assert len(set(await asyncio.gather(*(store.session_key() for store in stores)))) == 1


async def test_of_replicas_that_put_the_same_session_one_creates_it(redis: RedisServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(redis.url)) for _ in range(4)]
        created = await asyncio.gather(*(store.put(make_record(i)) for i in range(10) for store in stores))
        assert sum(created) == 10
        lists = [await store.list("acme") for store in stores]
        assert all([info.id for info in page.sessions] == [info.id for info in lists[0].sessions] for page in lists)
        assert len(lists[0].sessions) == 10


async def test_a_session_key_of_others_is_told(redis: RedisServer) -> None:
    redis("SET", "kshot:session-key", "short")
    async with opened(redis.url) as store:
        with pytest.raises(StoreUnavailable, match="no session key"):
            await store.session_key()


@pytest.mark.parametrize(
    "command",
    [
        ("SET", KEY, ""),
        ("SET", KEY, "garbage"),
        ("SET", KEY, b"\x80\x04\x95pickle"),
        ("SET", KEY, encode_record(RECORD)[:-1]),
        ("SET", KEY, encode_record(RECORD)[:60]),
        ("SET", KEY, encode_record(RECORD) + b"\0"),
        ("SET", KEY, encode_record(RECORD).replace(b'"cat"', b'"cut"')),
        ("SET", KEY, encode_record(make_record(2))),
        ("SET", KEY, encode_record(make_record(tenant="other"))),
        ("RPUSH", KEY, "a"),
        ("HSET", KEY, "a", "b"),
    ],
)
async def test_a_damaged_record_is_a_miss_and_heals(redis: RedisServer, command: tuple[str | bytes, ...]) -> None:
    async with opened(redis.url) as store:
        await store.put(RECORD)
        await store.put(make_record(3))
        redis("DEL", KEY)
        redis(*command)
        redis("EXPIRE", KEY, 1000)
        assert await store.get("acme", ID) is None
        assert store.counters.corrupt_records == 1
        # A list reads headers only: it skips what has none, and shows what is damaged behind it.
        assert make_record(3).info.id in [info.id for info in (await store.list("acme")).sessions]
        assert store.counters.failures == 0
        assert await store.put(RECORD) is True
        assert same(await store.get("acme", ID), RECORD)


async def test_damaged_pixels_are_a_miss_though_the_header_is_whole(redis: RedisServer) -> None:
    damaged = bytearray(encode_record(RECORD))
    damaged[-1] ^= 1
    async with opened(redis.url) as store:
        await store.put(RECORD)
        redis("SET", KEY, bytes(damaged), "KEEPTTL")
        assert await store.get("acme", ID) is None
        assert store.counters.corrupt_records == 1


async def test_a_record_without_expiry_is_there(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        await store.put(RECORD)
        redis("PERSIST", KEY)
        got = await store.get("acme", ID)
        assert same(got, RECORD)
        assert got is not None
        assert got.info.expires_at > time.time() + 10**8


@pytest.mark.parametrize("index", ["created", "expires"])
async def test_a_damaged_index_costs_lists_only(redis: RedisServer, index: str) -> None:
    redis("SET", f"kshot:{{acme}}:{index}", "garbage")
    async with opened(redis.url) as store:
        assert await store.put(RECORD) is True
        assert same(await store.get("acme", ID), RECORD)
        assert await store.touch("acme", ID, 9999) is not None
        assert store.counters.index_failures >= 1
        if index == "created":
            with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                await store.list("acme")
        assert await store.delete("acme", ID) is True


async def test_the_index_forgets_what_expired(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        records = [make_record(i) for i in range(5)]
        for record in records[:4]:
            await store.put(record)
        long_ago = int((time.time() - 3600) * 1000)
        for record in records[:3]:
            redis("DEL", f"kshot:{{acme}}:session:{record.info.id}")
            redis("ZADD", "kshot:{acme}:expires", long_ago, record.info.id)
        assert [info.id for info in (await store.list("acme")).sessions] == [records[3].info.id]
        await store.put(records[4])
        assert redis("ZCARD", "kshot:{acme}:created") == b":2\r\n"
        assert redis("ZCARD", "kshot:{acme}:expires") == b":2\r\n"


async def test_a_list_walks_past_any_number_of_gone_sessions(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        for i in range(150):
            await store.put(make_record(i, created_at=1e9 + i, size=(1, 1, 1)))
        for i in range(1, 149):
            redis("DEL", f"kshot:{{acme}}:session:{make_record(i, size=(1, 1, 1)).info.id}")
        page = await store.list("acme", limit=2)
        assert [info.created_at - 1e9 for info in page.sessions] == [149, 0]


async def test_a_list_of_very_many_gone_sessions_ends_in_a_cursor_not_in_a_timeout(redis: RedisServer) -> None:
    gone = [word for i in range(6000) for word in (2 * 10**12 + i, f"s_{i:032x}")]
    redis("ZADD", "kshot:{acme}:created", *gone)
    async with opened(redis.url) as store:
        await store.put(RECORD)
        page = await store.list("acme")
        assert page.sessions == []
        assert page.next_cursor is not None
        page = await store.list("acme", cursor=page.next_cursor)
        assert [info.id for info in page.sessions] == [ID]


async def test_pages_of_sessions_made_in_one_millisecond(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        for i in range(260):
            await store.put(make_record(i, size=(1, 1, 1)))
        seen: list[str] = []
        cursor = None
        while len(seen) < 260:
            page = await store.list("acme", cursor=cursor, limit=30)
            seen += [info.id for info in page.sessions]
            cursor = page.next_cursor
        assert cursor is None
        assert len(set(seen)) == 260


async def test_an_index_of_others_is_told(redis: RedisServer) -> None:
    redis("ZADD", "kshot:{acme}:created", 1, b"\xff\xfe")
    async with opened(redis.url) as store:
        with pytest.raises(StoreUnavailable, match="none of ours"):
            await store.list("acme")


async def test_passwords_through_the_url() -> None:
    with running_redis("--requirepass", "hunter2") as server:
        place = f"127.0.0.1:{server.port}/0"
        async with opened(f"redis://:hunter2@{place}") as store:
            assert await store.put(RECORD) is True
        for credentials in ("", ":wrong@", "user:hunter2@"):
            async with opened(f"redis://{credentials}{place}") as store:
                with pytest.raises(StoreUnavailable) as caught:
                    await store.put(RECORD)
                assert "hunter2" not in str(caught.value)


async def test_an_acl_of_our_prefix_is_enough(fragile_redis: RedisServer) -> None:
    fragile_redis("ACL", "SETUSER", "kshot", "on", ">secret", "~kshot:*", "+@all", "-@dangerous", "-@admin")
    async with opened(f"redis://kshot:secret@127.0.0.1:{fragile_redis.port}/0") as store:
        await store.session_key()
        assert await store.put(RECORD) is True
        assert same(await store.get("acme", ID), RECORD)
        assert await store.touch("acme", ID, 9999) is not None
        assert len((await store.list("acme")).sessions) == 1
        assert await store.delete("acme", ID) is True
        assert store.counters.index_failures == 0


async def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with running_redis(*tls, "--tls-auth-clients", "no"):
        trusted = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
        async with opened(trusted) as store:
            assert await store.put(RECORD) is True
            assert same(await store.get("acme", ID), RECORD)
        async with opened(f"rediss://127.0.0.1:{port}/0") as store:  # a certificate that nobody vouches for
            with pytest.raises(StoreUnavailable):
                await store.get("acme", ID)
