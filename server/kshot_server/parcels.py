"""Messages and replies as bytes, and back: a table of kinds, and nothing that could be run.

header's length (4 bytes)  header: JSON, an entry for each message  arrays, one after the other

[number, kind, fields...]      an array is its shape in the entry, and its numbers among the arrays
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic_core import from_json, to_json

from kshot_server.engine.requests import (
    Adapted,
    AdaptRequest,
    Classified,
    ClassifyRequest,
    Failed,
    NeedsSupport,
    Support,
    Timings,
)
from kshot_server.messages import Cancel, Cancelled, Message, Reply

__all__ = ["pack", "unpack"]

_HEADER_LENGTH = struct.Struct("<I")
_Arrays: TypeAlias = list[NDArray[Any]]


def pack(numbered: Sequence[tuple[int, Message | Reply]]) -> bytes:
    """A parcel of numbered messages, or replies."""
    arrays: _Arrays = []
    entries = [
        [number, type(message).__name__, *_KINDS[type(message).__name__][0](message, arrays)]
        for number, message in numbered
    ]
    header = to_json(entries)
    return b"".join([_HEADER_LENGTH.pack(len(header)), header, *(array.tobytes() for array in arrays)])


def unpack(parcel: bytearray) -> list[tuple[int, Any]]:
    """What was packed; arrays are parts of the parcel's memory.

    Raises:
        ValueError: it is no parcel.
    """
    try:
        (length,) = _HEADER_LENGTH.unpack_from(parcel)
        start = _HEADER_LENGTH.size + length
        arrays = _Reader(parcel, start)
        entries = from_json(parcel[_HEADER_LENGTH.size : start])
        return [(number, _KINDS[kind][1](arrays, *fields)) for number, kind, *fields in entries]
    except (KeyError, TypeError, struct.error) as error:
        raise ValueError(f"no parcel: {error!r}") from error


class _Reader:
    """Reads the arrays of a parcel, in the order in which they were packed."""

    def __init__(self, parcel: bytearray, start: int) -> None:
        self._parcel = parcel
        self._at = start

    def take(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """The next one."""
        array = np.frombuffer(self._parcel, dtype, math.prod(shape), self._at).reshape(shape)
        self._at += array.nbytes
        return array


def _put(array: NDArray[Any], dtype: DTypeLike, arrays: _Arrays) -> tuple[int, ...]:
    arrays.append(np.asarray(array, dtype))
    return array.shape


def _support(support: Support | None, arrays: _Arrays) -> list[Any] | None:
    if support is None:
        return None
    return [_put(support.inputs, np.uint8, arrays), _put(support.targets, np.int64, arrays), support.way]


def _read_support(arrays: _Reader, fields: Sequence[Any] | None) -> Support | None:
    if fields is None:
        return None
    inputs, targets, way = fields
    return Support(arrays.take(inputs, np.uint8), arrays.take(targets, np.int64), way)


def _timings(timings: Timings) -> tuple[float, float, float, int]:
    return timings.queue_ms, timings.adapt_ms, timings.predict_ms, timings.batch_size


def _text(value: object) -> str | None:
    return None if value is None else str(value)


# By the name of a kind: its fields, and how it is made of them.
_KINDS: Mapping[str, tuple[Callable[..., Sequence[Any]], Callable[..., Any]]] = {
    "AdaptRequest": (
        lambda m, arrays: (m.model, m.session, _support(m.support, arrays), m.deadline),
        lambda arrays, model, session, support, deadline: AdaptRequest(
            model, session, _required(_read_support(arrays, support)), deadline
        ),
    ),
    "ClassifyRequest": (
        lambda m, arrays: (
            m.model,
            m.session,
            _put(m.queries, np.uint8, arrays),
            _support(m.support, arrays),
            m.deadline,
        ),
        lambda arrays, model, session, queries, support, deadline: ClassifyRequest(
            model, session, arrays.take(queries, np.uint8), _read_support(arrays, support), deadline
        ),
    ),
    "Cancel": (lambda m, _: (m.number,), lambda _, number: Cancel(number)),
    "Cancelled": (lambda _m, _: (), lambda _: Cancelled()),
    "NeedsSupport": (lambda _m, _: (), lambda _: NeedsSupport()),
    "Adapted": (lambda m, _: _timings(m.timings), lambda _, *timings: Adapted(Timings(*timings))),
    "Classified": (
        lambda m, arrays: (_put(m.probabilities, np.float32, arrays), m.cache, *_timings(m.timings)),
        lambda arrays, shape, cache, *timings: Classified(arrays.take(shape, np.float32), Timings(*timings), cache),
    ),
    "Failed": (
        # What was expected and came is told as text in the end; here it may be anything.
        lambda m, _: (m.code, m.detail, _text(m.expected), _text(m.received), m.action, m.incident),
        lambda _, *fields: Failed(*fields),
    ),
}


def _required(support: Support | None) -> Support:
    if support is None:
        raise ValueError("no parcel: a request to adapt has no support set")
    return support
