"""Work that idle threads help with: who computes says what could be shared, and who has threads lends them.

A task alone on a machine of several cores leaves all but one without work. Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["Lend", "helped_by", "idle_threads", "shared_out"]

Lend: TypeAlias = Callable[[Sequence[Callable[[], None]]], "Sequence[Future[None]] | None"]
"""Begin to do all of these at once, each on an idle thread; None, and nothing is begun, where there are not enough."""


class _State(threading.local):
    lend: Lend | None = None


_state = _State()
# A C library that does not tell leaves it open where the cores begin.
_core_of_this_thread: Callable[[], int] = getattr(ctypes.CDLL(None), "sched_getcpu", lambda: -1)


@contextmanager
def helped_by(lend: Lend | None) -> Iterator[None]:
    """What this thread computes within may ask for help; None: no longer."""
    before, _state.lend = _state.lend, lend
    try:
        yield
    finally:
        _state.lend = before


def shared_out(make: Callable[[], Callable[[int], None]], members: int) -> bool:
    """Have `work = make()` done as `work(0)`, ..., `work(members - 1)` at once, the first by this thread.

    It is made when helpers have come, by this thread. Each has a core of its own meanwhile, as far as there are cores.
    Left to the system, threads that wait for one another every tenth of a millisecond stay on the core that they were
    woken on, and take turns there.

    An exception of any of them is raised when all have ended.

    Returns:
        True, when all is done; False, and nothing is made, where there are not so many threads that would help.
    """
    if _state.lend is None:
        return False
    made: Future[tuple[Callable[[int], None], list[int]]] = Future()

    def on_a_core(member: int) -> None:
        work, cores = made.result()
        with _bound_to(cores[member % len(cores)]):
            work(member)

    others = _state.lend([functools.partial(on_a_core, member) for member in range(1, members)])
    if others is None:
        return False
    try:
        try:
            made.set_result((make(), _cores_from_here()))
        except BaseException as error:
            made.set_exception(error)
            raise
        on_a_core(0)
    finally:  # they use what is this thread's
        wait(others)
    for other in others:
        other.result()
    return True


def idle_threads(most: int) -> int:
    """How many threads would help now, `most` at most: for who has threads of its own, and cores that lie idle."""
    if _state.lend is None:
        return 0
    for count in range(most, 0, -1):
        asked = _state.lend([_nothing] * count)
        if asked is not None:
            wait(asked)
            return count
    return 0


def _nothing() -> None:
    pass


def _cores_from_here() -> list[int]:
    """The cores that this thread may use, beginning with the one it is on."""
    cores = sorted(os.sched_getaffinity(0))
    here = _core_of_this_thread()
    first = cores.index(here) if here in cores else 0
    return cores[first:] + cores[:first]


@contextmanager
def _bound_to(core: int) -> Iterator[None]:
    """Keep this thread on a core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
