"""How many threads torch has within one operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["threads_within", "with_threads"]

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def threads_within(threads: int) -> Iterator[None]:
    """Operations of this thread run on so many."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_threads(threads: int, call: Callable[P, R]) -> Callable[P, R]:
    """The call, within `threads_within`."""

    @wraps(call)
    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        with threads_within(threads):
            return call(*args, **kwargs)

    return bound
