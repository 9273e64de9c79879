"""The HTTP side's view of the engines: which are up, which one gets a request, what happens when one dies.

    submit(request) ── pick by session id ──▶ station ── Line.call(Submit) ──▶ engine process
                                                │
                        its process dies ───────┴──▶ all its open calls end at once: 503 engine_unavailable

A station is up from the first answered ping of an engine process until that process dies. The ping is more than
politeness: a process that was killed while it waited on the queue leaves a reader behind in the queue's server, which
swallows the next message. Pings are sent until one is answered, so it is a ping that is swallowed and never a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome
from kshot_server.faults import Fault
from kshot_server.messages import Cancel, Message, Ping, Pong, Reply, Submit
from kshot_server.shared_state import SharedState

__all__ = ["Fleet", "Line"]

_POLL_SECONDS = 0.05
_PING_SECONDS = 0.25
_LONGEST_PING_SECONDS = 4.0


class Line(Protocol):
    """A way to one engine process."""

    async def call(self, message: Message) -> Reply:
        """Send a message and wait for its reply, for as long as it takes; cancelling the call forgets the reply."""


class _Station:
    """One engine as seen from here."""

    def __init__(self, index: int, line: Line) -> None:
        self.index = index
        self.line = line
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.up = False

    def weight(self, session: str) -> bytes:
        """Rendezvous hashing: the largest weight has the session, and losing a station moves only its own sessions."""
        return hashlib.blake2b(f"{self.index}/{session}".encode(), digest_size=8).digest()


class Fleet:
    """All engines of one server, for one API process. Lives on its event loop."""

    def __init__(
        self, lines: Sequence[Line], shared: SharedState, *, on_death: Callable[[int], None] = lambda _pid: None
    ) -> None:
        """Args: lines, one for each engine; shared, where they announce themselves; on_death, told the pid."""
        self._lines = lines
        self._shared = shared
        self._on_death = on_death
        self._stations: list[_Station] = []
        self._change = asyncio.Condition()
        self._watches: list[asyncio.Task[None]] = []
        self._errands: set[asyncio.Task[Reply]] = set()

    @property
    def ready(self) -> bool:
        """Whether at least one engine answers."""
        return any(station.up for station in self._stations)

    def start(self) -> None:
        """Begin to watch the engines. To be called on the event loop; the fleet may be made before there is one."""
        self._stations = [_Station(index, line) for index, line in enumerate(self._lines)]
        self._watches = [asyncio.create_task(self._watch(station)) for station in self._stations]

    async def stop(self) -> None:
        """Stop watching. Open calls are not touched."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def submit(self, request: AdaptRequest | ClassifyRequest) -> Outcome:
        """Have a request worked on. Waits while no engine is up: one that died is back within seconds.

        If the caller is cancelled (deadline passed, client gone), the engine is told and drops what it has not begun.

        Raises:
            Fault: `engine_unavailable`, the engine died with this request in its hands.
        """
        station = await self._pick(request.session)
        submission = uuid.uuid4().hex
        reply = await self._unless_lost(station, station.line.call(Submit(submission, request)), submission)
        if isinstance(reply, Pong):
            raise Fault("internal_error", "The engine dropped the request.")
        return reply

    async def _pick(self, session: str) -> _Station:
        async with self._change:
            await self._change.wait_for(lambda: self.ready)
        return max((s for s in self._stations if s.up), key=lambda s: s.weight(session))

    async def _unless_lost(self, station: _Station, calling: Awaitable[Reply], submission: str) -> Reply:
        call = asyncio.ensure_future(calling)
        try:
            ended: set[asyncio.Future[Any]] = {call, station.lost}
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
        except asyncio.CancelledError:
            self._send_later(station, Cancel(submission))
            raise
        finally:
            call.cancel()
        raise Fault(
            "engine_unavailable",
            "The engine that worked on this request has died; another is being started.",
            action="Send the request again; sessions are not lost.",
            retry_after=1,
        )

    def _send_later(self, station: _Station, message: Message) -> None:
        errand = asyncio.ensure_future(station.line.call(message))
        self._errands.add(errand)  # a task that nobody holds may be collected before it ran
        errand.add_done_callback(self._errands.discard)
        asyncio.get_running_loop().call_later(_PING_SECONDS * 4, errand.cancel)

    async def _watch(self, station: _Station) -> None:
        last = 0
        while True:
            pid = last = await self._next_process(station, last)
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._on_death(pid)
                continue
            dead = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().add_reader(descriptor, _settle, dead)
            try:
                if await self._answers(station, dead):
                    await self._set_up(station, up=True)
                await dead
            finally:
                asyncio.get_running_loop().remove_reader(descriptor)
                os.close(descriptor)
            await self._set_up(station, up=False)
            self._on_death(pid)

    async def _next_process(self, station: _Station, last: int) -> int:
        while (pid := self._shared.pid(station.index)) in {0, last}:
            await asyncio.sleep(_POLL_SECONDS)
        return pid

    async def _answers(self, station: _Station, dead: asyncio.Future[None]) -> bool:
        seconds = _PING_SECONDS
        while not dead.done():
            try:
                await asyncio.wait_for(station.line.call(Ping()), seconds)
            except TimeoutError:
                seconds = min(2 * seconds, _LONGEST_PING_SECONDS)  # swallowed, or the machine is that slow
            else:
                return True
        return False

    async def _set_up(self, station: _Station, *, up: bool) -> None:
        station.up = up
        if not up:
            _settle(station.lost)
            station.lost = asyncio.get_running_loop().create_future()
        async with self._change:
            self._change.notify_all()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
