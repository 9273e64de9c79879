"""The table of stores: the scheme of a URL names the kind. A new store is one file beside this one and one row here.

memory                    this process
sqlite:PATH               a file
redis://HOST:PORT/DB      shared by replicas; rediss:// with TLS, unix://PATH through a socket
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kshot_server.sessions.errors import StoreNotUsable
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.sessions.stores.cached import CachedStore
from kshot_server.sessions.stores.memory import MemoryStore
from kshot_server.sessions.stores.sqlite import SqliteStore
from kshot_server.settings import Settings

__all__ = ["STORES", "describe_url", "open_store"]


def open_store(url: str, settings: Settings | None = None) -> SessionStore:
    """Open the store that a URL names. Nothing is connected yet: a store that is down can come up later.

    Args:
        url: see the module docstring.
        settings: of the server, from which each store takes its own; the defaults if not given.

    Raises:
        StoreNotUsable: no store has that scheme, the rest of the URL is wrong, or an extra is missing.
    """
    opener = STORES.get(url.partition(":")[0])
    if opener is None:
        raise StoreNotUsable(f"expected a store of {', '.join(STORES)}, got {describe_url(url)!r}")
    try:
        return opener(url, settings or Settings())
    except ValueError as error:
        raise StoreNotUsable(f"the store {describe_url(url)!r} cannot be opened: {error}") from None


def describe_url(url: str) -> str:
    """The URL without user, password and options: fit for a log."""
    scheme, colon, rest = url.partition(":")
    place = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}{colon}{'//***@' if '@' in rest else ''}{place}"


def _open_memory(url: str, settings: Settings) -> SessionStore:
    if url != "memory":
        raise ValueError("memory takes nothing behind it")
    return MemoryStore(settings.store_bytes)


def _open_sqlite(url: str, _settings: Settings) -> SessionStore:
    path = Path(url.removeprefix("sqlite:"))
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError("expected sqlite:PATH of a file in a folder that exists")
    return SqliteStore(path)


def _open_redis(url: str, settings: Settings) -> SessionStore:
    try:
        from kshot_server.sessions.stores.redis import RedisStore  # noqa: PLC0415 - the one optional dependency
    except ModuleNotFoundError:
        raise StoreNotUsable("the Redis store needs an extra: pip install 'kshot[redis]'") from None
    return CachedStore(RedisStore(url, timeout_seconds=settings.store_timeout), settings.record_cache_bytes)


STORES: dict[str, Callable[[str, Settings], SessionStore]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "redis": _open_redis,
    "rediss": _open_redis,
    "unix": _open_redis,
}
