"""Queries in parts: of bounded size, and for idle lanes to have some. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kshot_models.sharing import shared_out
from kshot_server.engine.executors.base import Queries

__all__ = ["QUERIES_TO_SHARE", "answered_in_parts", "batch_in_parts"]

_QUERIES_AT_ONCE = 128
QUERIES_TO_SHARE = 5
"""Fewer are computed before another lane is awake."""


def batch_in_parts(batch: Sequence[Queries]) -> list[list[Queries]]:
    """The batch in parts of bounded size, or of one task."""
    parts: list[list[Queries]] = []
    size = _QUERIES_AT_ONCE
    for queries in batch:
        size += len(queries.inputs)
        if size > _QUERIES_AT_ONCE:
            parts.append([])
            size = len(queries.inputs)
        parts[-1].append(queries)
    return parts


def answered_in_parts(
    compute: Callable[[NDArray[np.uint8]], NDArray[np.float32]], inputs: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """`compute` of some inputs at a time, in order: by this thread, and by an idle one if there is enough for both."""
    if len(inputs) >= 2 * QUERIES_TO_SHARE:
        chunks = np.array_split(inputs, 2 * -(-len(inputs) // (2 * _QUERIES_AT_ONCE)))
        parts = [np.empty(0, np.float32)] * len(chunks)

        def take_part(member: int) -> None:
            for number in range(member, len(chunks), 2):
                parts[number] = compute(chunks[number])

        if shared_out(lambda: take_part, 2):
            return np.concatenate(parts)
    parts = [compute(inputs[i : i + _QUERIES_AT_ONCE]) for i in range(0, len(inputs), _QUERIES_AT_ONCE)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
