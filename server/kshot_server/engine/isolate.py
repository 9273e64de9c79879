"""One result for each item of a batch, whatever happens to the batch.

    compute(all) fails -> compute(first half), compute(second half) -> ... -> the culprit alone fails

Halving serves both causes: a bad item is cornered in a few steps, and a batch too large for the memory gets smaller.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import TypeVar

from kshot_server.engine.requests import Failed

__all__ = ["internal_error", "one_result_each"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def one_result_each(
    items: Sequence[Item], compute: Callable[[Sequence[Item]], Sequence[Result | Failed]], *, what: str
) -> list[Result | Failed]:
    """Compute all items, in as large batches as work.

    Args:
        items: the batch.
        compute: gives one result for each item, or raises.
        what: names the work in the log.

    Returns:
        One result for each item, in order; `Failed("internal_error")` where nothing helped.
    """
    try:
        return [result for _, result in zip(items, compute(items), strict=True)]
    except Exception as error:  # noqa: BLE001 - whatever it is, the other items must not suffer from it
        if len(items) == 1:
            return [internal_error(what, error)]
    # Outside the handler, where the traceback no longer keeps the failed batch's tensors in memory.
    middle = len(items) // 2
    return [result for half in (items[:middle], items[middle:]) for result in one_result_each(half, compute, what=what)]


def internal_error(what: str, error: Exception) -> Failed:
    """Log an error that is ours, and answer with nothing but the name of that log line."""
    incident = secrets.token_hex(8)
    _log.error("incident %s: %s failed", incident, what, exc_info=error)
    return Failed("internal_error", "the engine failed on this request", incident=incident)
