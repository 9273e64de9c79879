"""The weights of sessions that are ready to use: least recently used first out, bounded by bytes.

A cache of what can be computed again at any time: losing an entry costs time, never an answer. Keys are (model digest,
session id), values are immutable, and a hit is an exact match of both, so weights can never be mixed up.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = ["CacheStats", "Sized", "WeightCache"]


class Sized(Protocol):
    """A value that knows how many bytes it holds."""

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        ...


Value = TypeVar("Value", bound=Sized)


@dataclass(frozen=True)
class CacheStats:
    """Counts since the start; `entries` and `bytes` are of now."""

    entries: int
    bytes: int
    capacity_bytes: int
    hits: int
    misses: int
    evictions: int


class WeightCache(Generic[Value]):
    """Owned by one thread; `stats` alone may be read from others."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._entries: OrderedDict[tuple[str, str], Value] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._evictions = 0

    def get(self, model: str, session: str) -> Value | None:
        """The session's weights, which count as used now; None if they are not here."""
        value = self._entries.get((model, session))
        if value is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end((model, session))
        return value

    def put(self, model: str, session: str, value: Value) -> None:
        """Keep `value` in place of what was there. What is larger than the whole cache is not kept."""
        key = (model, session)
        if (old := self._entries.pop(key, None)) is not None:
            self._bytes -= old.size_bytes
        if value.size_bytes > self._capacity:
            return
        self._entries[key] = value
        self._bytes += value.size_bytes
        while self._bytes > self._capacity:
            _, evicted = self._entries.popitem(last=False)
            self._bytes -= evicted.size_bytes
            self._evictions += 1

    def stats(self) -> CacheStats:
        """What the cache holds and how it did."""
        return CacheStats(len(self._entries), self._bytes, self._capacity, self._hits, self._misses, self._evictions)
