"""Work that idle threads help with: who computes says what could be shared, and who has threads lends them.

A task alone on a machine of several cores leaves all but one without work. Nothing here needs torch.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["Lend", "helped_by", "shared_out"]

Lend: TypeAlias = Callable[[Sequence[Callable[[], None]]], "Sequence[Future[None]] | None"]
"""Begin to do all of these at once, each on an idle thread; None, and nothing is begun, where there are not enough."""


class _State(threading.local):
    lend: Lend | None = None


_state = _State()


@contextmanager
def helped_by(lend: Lend | None) -> Iterator[None]:
    """What this thread computes within may ask for help; None: no longer."""
    before, _state.lend = _state.lend, lend
    try:
        yield
    finally:
        _state.lend = before


def shared_out(work: Callable[[int], None], members: int) -> bool:
    """Have `work(0)`, ..., `work(members - 1)` done at once, the first by this thread.

    An exception of any of them is raised when all have ended.

    Returns:
        True, when all is done; False, and nothing is done, where there are not so many threads that would help.
    """
    if _state.lend is None:
        return False
    others = _state.lend([functools.partial(work, member) for member in range(1, members)])
    if others is None:
        return False
    try:
        work(0)
    finally:  # they use what is this thread's
        wait(others)
    for other in others:
        other.result()
    return True
