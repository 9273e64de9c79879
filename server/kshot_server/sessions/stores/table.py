"""The table of stores: the scheme of a URL names the kind. A new store is one file beside this one and one row here.

memory                    this process
sqlite:PATH               a file
redis://HOST:PORT/DB      shared by replicas; rediss:// with TLS, unix://PATH through a socket
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kshot_server.sessions.errors import StoreNotUsable
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.sessions.stores.cached import CachedStore
from kshot_server.sessions.stores.memory import MemoryStore
from kshot_server.sessions.stores.sqlite import SqliteStore

__all__ = ["STORES", "StoreSettings", "describe_url", "open_store"]


class StoreSettings(NamedTuple):
    """What every store may be told; each takes what it needs."""

    session_key: bytes | None = None  # a secret of any length; None: the store makes one
    max_bytes: int = 1 << 30  # most bytes of records in the memory store
    cache_bytes: int = 1 << 27  # most bytes of copies beside a remote store
    timeout_seconds: float = 0.1  # of one exchange with a remote store
    pause_seconds: float = 1.0  # how long nobody tries after a remote store failed


def open_store(url: str, settings: StoreSettings | None = None) -> SessionStore:
    """Open the store that a URL names. Nothing is connected yet: a store that is down can come up later.

    Args:
        url: see the module docstring.
        settings: what the stores may be told.

    Raises:
        StoreNotUsable: no store has that scheme, the rest of the URL is wrong, or an extra is missing.
    """
    settings = settings or StoreSettings()
    if settings.session_key is not None:
        # Any length comes in, the 32 bytes that ids are keyed with go on.
        settings = settings._replace(session_key=hashlib.blake2b(settings.session_key, digest_size=32).digest())
    opener = STORES.get(url.partition(":")[0])
    if opener is None:
        raise StoreNotUsable(f"expected a store of {', '.join(STORES)}, got {describe_url(url)!r}")
    try:
        return opener(url, settings)
    except ValueError as error:
        raise StoreNotUsable(f"the store {describe_url(url)!r} cannot be opened: {error}") from None


def describe_url(url: str) -> str:
    """The URL without user, password and options: fit for a log."""
    scheme, colon, rest = url.partition(":")
    place = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}{colon}{'//***@' if '@' in rest else ''}{place}"


def _open_memory(url: str, settings: StoreSettings) -> SessionStore:
    if url != "memory":
        raise ValueError("memory takes nothing behind it")
    return MemoryStore(settings.max_bytes, settings.session_key)


def _open_sqlite(url: str, settings: StoreSettings) -> SessionStore:
    path = Path(url.removeprefix("sqlite:"))
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError("expected sqlite:PATH of a file in a folder that exists")
    return SqliteStore(path, settings.session_key)


def _open_redis(url: str, settings: StoreSettings) -> SessionStore:
    try:
        from kshot_server.sessions.stores.redis import RedisStore  # noqa: PLC0415 - the one optional dependency
    except ModuleNotFoundError:
        raise StoreNotUsable("the Redis store needs an extra: pip install 'kshot[redis]'") from None
    store = RedisStore(
        url,
        settings.session_key,
        timeout_seconds=settings.timeout_seconds,
        pause_seconds=settings.pause_seconds,
    )
    return CachedStore(store, settings.cache_bytes)


STORES: dict[str, Callable[[str, StoreSettings], SessionStore]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "redis": _open_redis,
    "rediss": _open_redis,
    "unix": _open_redis,
}
