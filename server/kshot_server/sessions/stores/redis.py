"""The Redis store: sessions that all replicas share. Needs Redis 7 or newer, or Valkey.

    kshot:session-key             the key of session ids, made by the first replica that asks (SET NX)
    kshot:{TENANT}:session:ID     the record (codec.py) with its expiry: one SET
    kshot:{TENANT}:created        sorted set of ids by creation, for lists
    kshot:{TENANT}:expires        the same ids by expiry, for sweeping both sets

The record is the truth, the two sorted sets are an index: when a write to them fails, the session lives but is not
listed. The braces keep a tenant's keys on one node of a cluster. For the operator: with `maxmemory-policy
noeviction` a full memory refuses new sessions (as in deploy/compose.yaml), with `volatile-lru` it forgets old ones; an
ACL of `~kshot:*`; TLS and passwords through the URL (rediss://USER:PASSWORD@HOST:PORT/DB).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from redis.exceptions import ResponseError

from kshot_server.sessions.codec import PREFIX_BYTES, check_owner, decode_info, decode_record, encode_record, header_end
from kshot_server.sessions.errors import InvalidRecord, StoreUnavailable
from kshot_server.sessions.record import SessionInfo, SessionRecord, is_session_id, merge
from kshot_server.sessions.stores.base import Page, StoreCounters
from kshot_server.sessions.stores.cursors import Position, check_limit, cursor_after, parse_cursor
from kshot_server.sessions.stores.redis_link import RedisLink, answer, refusal

__all__ = ["RedisStore"]

_logger = logging.getLogger(__name__)

_Command = tuple[str | bytes | int, ...]
_Infos = list[SessionInfo]  # named out here: inside the class, `list` is its method
_Positions = list[Position]

_KEY_NAME = "kshot:session-key"
_KEY_BYTES = 32
_LIST_BATCH = 100
_LIST_ROUNDS = 50  # a rare model among very many sessions makes short pages, not endless requests
_INFO_BYTES = 2048  # read of each record in a list at first: the header of all but very long lists of labels
_NEVER_SECONDS = 10**9  # a record without an expiry is not ours, but it is there
_SWEEP_GRACE_MS = 60_000  # clocks of replicas may differ by this much without a living session leaving the lists
_SWEEP = """
local dead = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, 100)
if #dead > 0 then
  redis.call('ZREM', KEYS[1], unpack(dead))
  redis.call('ZREM', KEYS[2], unpack(dead))
end
return #dead
"""


class RedisStore:
    """A SessionStore in Redis.

    Args:
        url: redis://, rediss:// or unix://, as redis-py reads it.
        timeout_seconds: for one exchange; a local network carries records of a few MB in 0.1 s.
        pause_seconds: after a failure, how long nobody tries.

    Raises:
        ValueError: the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        pause_seconds: float = 1.0,
    ) -> None:
        self.counters = StoreCounters()
        self._session_key: bytes | None = None  # the replicas agree on random ones through Redis
        self._link = RedisLink(url, self.counters, timeout_seconds, pause_seconds)

    async def session_key(self) -> bytes:
        """See SessionStore."""
        if self._session_key is None:
            ours = secrets.token_bytes(_KEY_BYTES)
            _, key = await self._link.ask(("SET", _KEY_NAME, ours, "NX"), ("GET", _KEY_NAME))
            if len(answer(key, bytes)) != _KEY_BYTES:
                raise StoreUnavailable(f"the value of {_KEY_NAME} in Redis is no session key; delete it")
            self._session_key = answer(key, bytes)
        return self._session_key

    async def put(self, record: SessionRecord) -> bool:
        """See SessionStore."""
        info = record.info
        if await self._set(record, "NX", "EX", info.ttl_seconds):
            await self._index(info)
            return True
        existing = await self.get(info.tenant, info.id)
        if existing is None:  # it expired just now, or what is there is no record
            await self._set(record, "EX", info.ttl_seconds)
            await self._index(info)
            return True
        merged = merge(existing, record).info
        if (merged.ttl_seconds, merged.durability) != (existing.info.ttl_seconds, existing.info.durability):
            await self._set(merge(existing, record), "XX", "KEEPTTL")
        await self.touch(info.tenant, info.id, info.ttl_seconds)
        return False

    async def get(self, tenant: str, session: str) -> SessionRecord | None:
        """See SessionStore."""
        if not is_session_id(session):
            return None
        key = _record_key(tenant, session)
        data, life_ms = await self._link.ask(("GET", key), ("PTTL", key))
        expires_at = _expires_at(life_ms)
        if data is None or expires_at is None:
            return None
        try:
            record = decode_record(_bytes(data))
            check_owner(record.info, tenant, session)
        except InvalidRecord as error:
            self._count_corrupt(session, error)
            return None
        return record.expiring(expires_at)

    async def expires_at(self, tenant: str, session: str) -> float | None:
        """See SessionStore."""
        if not is_session_id(session):
            return None
        (life_ms,) = await self._link.ask(("PTTL", _record_key(tenant, session)))
        return _expires_at(life_ms)

    async def touch(self, tenant: str, session: str, ttl_seconds: int) -> float | None:
        """See SessionStore."""
        if not is_session_id(session):
            return None
        key = _record_key(tenant, session)
        expires_ms = _now_ms() + ttl_seconds * 1000
        renewed, life_ms, *index = await self._link.ask(
            ("EXPIRE", key, ttl_seconds, "GT"),
            ("PTTL", key),
            # XX: a session that is gone must not come back into the index.
            ("ZADD", _expires_key(tenant), "XX", "GT", expires_ms, session),
            *_keep_index(tenant, ttl_seconds),
        )
        answer(renewed, int)
        self._report(index)
        return _expires_at(life_ms)

    async def delete(self, tenant: str, session: str) -> bool:
        """See SessionStore."""
        if not is_session_id(session):
            return False
        deleted, *index = await self._link.ask(
            ("DEL", _record_key(tenant, session)),
            ("ZREM", _created_key(tenant), session),
            ("ZREM", _expires_key(tenant), session),
        )
        self._report(index)
        return bool(answer(deleted, int))

    async def list(self, tenant: str, *, model: str | None = None, cursor: str | None = None, limit: int = 50) -> Page:
        """See SessionStore."""
        check_limit(limit)
        before = parse_cursor(cursor)
        infos: _Infos = []
        for _ in range(_LIST_ROUNDS):
            positions = await self._positions(tenant, before, max(limit + 1 - len(infos), _LIST_BATCH))
            if not positions:
                return Page(infos, None)
            found = await self._infos(tenant, [position.session for position in positions])
            infos += [info for info in found if model is None or info.model == model]
            before = positions[-1]
            if len(infos) > limit:
                last = infos[limit - 1]
                return Page(infos[:limit], cursor_after(Position(last.created_ms, last.id)))
        return Page(infos, None if before is None else cursor_after(before))

    async def ping(self) -> None:
        """See SessionStore."""
        (pong,) = await self._link.ask(("PING",))
        answer(pong, object)

    async def close(self) -> None:
        """See SessionStore."""
        await self._link.close()

    async def _set(self, record: SessionRecord, *options: str | int) -> bool:
        key = _record_key(record.info.tenant, record.info.id)
        (stored,) = await self._link.ask(("SET", key, encode_record(record), *options))
        return bool(answer(stored, object))

    async def _index(self, info: SessionInfo) -> None:
        created, expires = _created_key(info.tenant), _expires_key(info.tenant)
        now_ms = _now_ms()
        self._report(
            await self._link.ask(
                ("ZADD", created, info.created_ms, info.id),
                ("ZADD", expires, now_ms + info.ttl_seconds * 1000, info.id),
                *_keep_index(info.tenant, info.ttl_seconds),
                ("EVAL", _SWEEP, 2, created, expires, now_ms - _SWEEP_GRACE_MS),
            )
        )

    async def _positions(self, tenant: str, before: Position | None, count: int) -> _Positions:
        """The next ids of the list, `count` or a few fewer; none at all only at its end."""
        key = _created_key(tenant)
        highest = "+inf" if before is None else before.created_ms
        skip = 0
        while True:
            window = ("LIMIT", skip, count)
            (flat,) = await self._link.ask(("ZREVRANGEBYSCORE", key, highest, "-inf", "WITHSCORES", *window))
            positions = _parse_positions(answer(flat, list))
            following = [position for position in positions if before is None or position < before]
            # Sessions made in the same millisecond as the cursor's come again: pass over those that were seen.
            if following or len(positions) < count:
                return following
            skip += count

    async def _infos(self, tenant: str, sessions: Sequence[str]) -> _Infos:
        keys = [_record_key(tenant, session) for session in sessions]
        starts = await self._link.ask(*(("GETRANGE", key, 0, _INFO_BYTES - 1) for key in keys))
        lives = await self._link.ask(*(("PTTL", key) for key in keys))
        infos = []
        for session, key, start, life_ms in zip(sessions, keys, starts, lives, strict=True):
            expires_at = _expires_at(life_ms)
            if start == b"" or expires_at is None:  # expired or evicted; the next sweep takes it out of the index
                continue
            try:
                info = decode_info(await self._whole_header(key, _bytes(start)))
                check_owner(info, tenant, session)
            except InvalidRecord as error:
                self._count_corrupt(session, error)
                continue
            infos.append(info.expiring(expires_at))
        return infos

    async def _whole_header(self, key: str, start: bytes) -> bytes:
        if len(start) < PREFIX_BYTES or header_end(start) <= len(start):
            return start
        (header,) = await self._link.ask(("GETRANGE", key, 0, header_end(start) - 1))
        return _bytes(header)

    def _count_corrupt(self, session: str, error: InvalidRecord) -> None:
        self.counters.corrupt_records += 1
        _logger.warning("the record of session %s in Redis cannot be read and counts as missing: %s", session, error)

    def _report(self, answers: Sequence[Any]) -> None:
        refusals = [refusal(value) for value in answers if isinstance(value, ResponseError)]
        if refusals:
            self.counters.index_failures += 1
            _logger.warning("Redis keeps the sessions but refuses to index them, lists are incomplete: %s", refusals[0])


def _record_key(tenant: str, session: str) -> str:
    # Quoted, so that no name of a tenant can reach into the keys of another.
    return f"kshot:{{{quote(tenant, safe='')}}}:session:{session}"


def _created_key(tenant: str) -> str:
    return f"kshot:{{{quote(tenant, safe='')}}}:created"


def _expires_key(tenant: str) -> str:
    return f"kshot:{{{quote(tenant, safe='')}}}:expires"


def _keep_index(tenant: str, ttl_seconds: int) -> list[_Command]:
    """The index goes when the last session of a tenant has gone. NX first: GT takes "no expiry" for the longest one."""
    keys = (_created_key(tenant), _expires_key(tenant))
    life = ttl_seconds + _SWEEP_GRACE_MS // 1000
    return [("EXPIRE", key, life, option) for key in keys for option in ("NX", "GT")]


def _expires_at(life_ms: Any) -> float | None:
    """From the answer to PTTL: -2 is no such key, -1 a key that never expires."""
    life = answer(life_ms, int)
    if life == -2:
        return None
    return time.time() + (_NEVER_SECONDS if life == -1 else life / 1000)


def _bytes(value: Any) -> bytes:
    if isinstance(value, ResponseError) and refusal(value) == "WRONGTYPE":
        raise InvalidRecord("the value is no string")
    return answer(value, bytes)


def _parse_positions(flat: list[Any]) -> list[Position]:
    try:
        return [
            Position(int(float(score)), str(member, "ascii"))
            for member, score in zip(flat[::2], flat[1::2], strict=True)
        ]
    except (ValueError, TypeError, OverflowError):
        raise StoreUnavailable("what answers is no Redis, or its index holds what is none of ours") from None


def _now_ms() -> int:
    return int(time.time() * 1000)
