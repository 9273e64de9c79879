"""Talking to Redis: commands in, answers out, within a time limit and behind a circuit breaker.

Each exchange is one round trip of any number of commands. None is ever repeated: the callers' requests are safe to
retry, and who retries on their behalf turns an outage into a storm.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.stores.base import StoreCounters
from kshot_server.sessions.stores.breaker import CircuitBreaker

__all__ = ["RedisLink", "answer", "refusal"]

_Kind = TypeVar("_Kind")

_MAX_CONNECTIONS = 64
# What redis-py lets out when the other side is gone, slow, or speaks another protocol.
_NO_ANSWER = (RedisError, OSError, TimeoutError, EOFError, ValueError, TypeError, LookupError)


class RedisLink:
    """A pool of connections to one Redis.

    Args:
        url: redis://, rediss:// or unix://, as redis-py reads it.
        counters: where failures and refusals are counted.
        timeout_seconds: for one exchange, with connecting and waiting for a free connection.
        pause_seconds: after a failure, how long nobody tries.

    Raises:
        ValueError: the URL cannot be read.
    """

    def __init__(self, url: str, counters: StoreCounters, timeout_seconds: float, pause_seconds: float) -> None:
        self._counters = counters
        self._timeout_seconds = timeout_seconds
        self._breaker = CircuitBreaker(pause_seconds)
        # Any: redis-py types each answer as "a result or an awaitable of it", which no caller can use.
        self._pool: Any = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._client: Any = redis.asyncio.Redis(connection_pool=self._pool)

    async def ask(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        """Send commands in one round trip.

        Returns:
            One answer for each; where Redis refused a command, its ResponseError stands as the answer.

        Raises:
            StoreUnavailable: Redis did not answer in time, or just before to somebody else.
        """
        if not self._breaker.admits():
            self._counters.refusals += 1
            raise StoreUnavailable("Redis did not answer a moment ago")
        try:
            async with asyncio.timeout(self._timeout_seconds), self._client.pipeline(transaction=False) as batch:
                for command in commands:
                    batch.execute_command(*command)
                answers: list[Any] = await batch.execute(raise_on_error=False)
        except _NO_ANSWER as error:
            self._breaker.failed()
            self._counters.failures += 1
            raise StoreUnavailable(f"Redis does not answer: {type(error).__name__}") from error
        self._breaker.succeeded()
        return answers

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._pool.disconnect()


def answer(value: object, kind: type[_Kind]) -> _Kind:
    """`value`, if it is an answer of the kind that the command has.

    Raises:
        StoreUnavailable: Redis refused the command (read only, out of memory, no permission), or it is no Redis.
    """
    if isinstance(value, ResponseError):
        raise StoreUnavailable(f"Redis refuses: {refusal(value)}") from value
    if not isinstance(value, kind):
        raise StoreUnavailable("what answers is no Redis")
    return value


def refusal(error: ResponseError) -> str:
    """The kind of a refusal (WRONGTYPE, OutOfMemoryError, ...). Not the rest of its text: that may quote keys."""
    return str(error).partition(" ")[0] if type(error) is ResponseError else type(error).__name__
