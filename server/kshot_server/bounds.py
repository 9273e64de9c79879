"""How long a request may be worked on: until its time is up, or until its client hangs up.

    begins ──▶ a moment later ──▶ deadline passes     Fault deadline_exceeded
     timer     timer, watcher  ─▶ client hangs up     ClientGone

Most requests are answered within a moment, also by a server that has as many as it can take. One timer is all that they
cost: a task that watches for a hang-up would take a tenth of a small classification.
"""

from __future__ import annotations

import asyncio
from typing import Self

from starlette.types import Receive

from kshot_server.envelope import ClientGone
from kshot_server.faults import Fault

__all__ = ["Bounds"]

_MOMENT_SECONDS = 0.1


class Bounds:
    """Cancels what the task that made it does within the `with` block, and says why.

    Args:
        receive: of the request.
        seconds: until its deadline.

    Raises:
        Fault: `deadline_exceeded`.
        ClientGone: the client hung up after `end_with_client`.
    """

    def __init__(self, receive: Receive, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # a request is answered in one
        self._task = task
        self._cancelled_before = task.cancelling()
        self._receive = receive
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + seconds
        self._why: Fault | ClientGone | None = None
        self._watches = False  # from the next moment on
        self._moment_has_passed = False
        self._watcher: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(min(seconds, _MOMENT_SECONDS), self._after_a_moment)

    def end_with_client(self) -> None:
        """From now on a client that hangs up ends the work. Its body must have been read to the end."""
        self._watches = True
        if self._moment_has_passed:
            self._start_watching()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # it holds this: garbage in a cycle, for each request
        # As asyncio.timeout: if somebody else has cancelled the task too, then that is why it ends.
        if self._why is None:
            return
        if self._task.uncancel() <= self._cancelled_before and isinstance(error, asyncio.CancelledError):
            raise self._why from None

    def _after_a_moment(self) -> None:
        self._moment_has_passed = True
        self._timer = self._loop.call_at(self._ends, self._too_late)
        if self._watches:
            self._start_watching()

    def _start_watching(self) -> None:
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(ClientGone())

    def _too_late(self) -> None:
        self._end(
            Fault(
                "deadline_exceeded",
                f"The request was not finished within {self._seconds:g} seconds.",
                action="Send it again, or with fewer images.",
            )
        )

    def _end(self, why: Fault | ClientGone) -> None:
        if self._why is None:
            self._why = why
            self._task.cancel()
