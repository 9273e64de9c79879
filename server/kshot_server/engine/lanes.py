"""The threads that compute. Who worked last works next: what it used is still in its core's cache.

A pool of the standard library wakes its threads in turn, so that a lone client's requests take turns on all cores, each
with memory of its own to read in again.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from kshot_models.sharing import Lend

__all__ = ["Lanes"]

T = TypeVar("T")
_Job = Callable[[], None]


class Lanes:
    """Up to `count` threads, each started when it is needed for the first time.

    Args:
        count: of threads.
        enter: called once by each thread before its first work, with `lend`: by it, work may ask idle lanes for help.
    """

    def __init__(self, count: int, enter: Callable[[Lend], None]) -> None:
        self._count = count
        self._enter = enter
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._idle: list[queue.SimpleQueue[_Job | None]] = []  # the one that worked last comes last
        self._waiting: deque[_Job] = deque()
        self._closed = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have a lane do `work`, as soon as one is free.

        Raises:
            RuntimeError: they are shut down, or the machine gives no more threads.
        """
        future, job = _with_future(work)
        with self._lock:
            if self._closed:
                raise RuntimeError("the lanes are shut down")
            if self._idle:
                self._idle.pop().put(job)
            elif len(self._threads) < self._count:
                self._start(job)
            else:
                self._waiting.append(job)
        return future

    def lend(self, works: Sequence[Callable[[], None]]) -> list[Future[None]] | None:
        """Have idle lanes begin with all of `works` at once; None, and nothing is done, if there are not so many.

        Threads that no work has needed so far are not started for it.
        """
        futures, jobs = zip(*map(_with_future, works), strict=True)
        with self._lock:
            if len(self._idle) < len(jobs):
                return None
            for job in jobs:
                self._idle.pop().put(job)
        return list(futures)

    def shutdown(self) -> None:
        """Wait for all that was submitted, and end the threads. May be called more than once."""
        with self._lock:
            self._closed = True
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()
        for thread in self._threads:
            thread.join()

    def _start(self, job: _Job) -> None:
        inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        inbox.put(job)
        thread = threading.Thread(target=self._run, args=(inbox,), name="kshot-lane", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, inbox: queue.SimpleQueue[_Job | None]) -> None:
        self._enter(self.lend)
        while (job := inbox.get()) is not None:
            job()
            del job  # not to hold what it holds while this waits
            with self._lock:
                if self._waiting:
                    inbox.put(self._waiting.popleft())
                elif self._closed:
                    return
                else:
                    self._idle.append(inbox)


def _with_future(work: Callable[[], T]) -> tuple[Future[T], _Job]:
    """What will have the result of `work`, and what does it."""
    future: Future[T] = Future()

    def job() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's, in another thread
            future.set_exception(error)

    return future, job
