"""A Redis store under test, and the record that its tests put into it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from kshot_server.sessions.codec import encode_record
from kshot_server.sessions.record import SessionRecord
from kshot_server.sessions.stores.redis import RedisStore

from .conftest import make_record

__all__ = ["ID", "KEY", "PAUSE", "RECORD", "opened", "same"]


RECORD = make_record()


ID = RECORD.info.id


KEY = f"kshot:{{acme}}:session:{ID}"


PAUSE = 0.3


@contextlib.asynccontextmanager
async def opened(url: str, timeout_seconds: float = 2.0, pause_seconds: float = PAUSE) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, timeout_seconds=timeout_seconds, pause_seconds=pause_seconds)
    try:
        yield store
    finally:
        await store.close()


def same(one: SessionRecord | None, other: SessionRecord) -> bool:
    return one is not None and encode_record(one) == encode_record(other)
