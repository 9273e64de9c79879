"""The HTTP side's view of the engines: which are up, which one gets a request, what happens when one dies.

    submit(request) ── pick by session id ──▶ station ── Line.send ──▶ engine process
                                                │
                        its process dies ───────┴──▶ all its open requests end at once: 503 engine_unavailable

A station is up from the first answered ping of an engine process until that process dies. The ping is more than
politeness: a process that was killed while it waited on the queue leaves a reader behind in the queue's server, which
swallows the next message. Pings are sent until one is answered, so it is a ping that is swallowed and never a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome
from kshot_server.faults import Fault
from kshot_server.messages import Cancel, Message, Ping, Pong, Reply
from kshot_server.shared_state import SharedState

__all__ = ["Fleet", "Line"]

_POLL_SECONDS = 0.05
_PING_SECONDS = 0.25
_LONGEST_PING_SECONDS = 4.0


class Line(Protocol):
    """A way to one engine process."""

    def send(self, number: int, message: Message) -> asyncio.Future[Reply]:
        """Send a message under a number that was not used before; the future gets its reply, however long that takes.

        Cancelling the future, or giving it an end of another kind, forgets the reply.
        """


class _Station:
    """One engine as seen from here."""

    def __init__(self, index: int, line: Line) -> None:
        self.index = index
        self.up = False
        self._line = line
        self._numbers = itertools.count()
        self._open: set[asyncio.Future[Reply]] = set()

    async def ask(self, message: Message) -> Reply:
        """Send a message and wait for its reply; the engine's death is a Fault.

        A request whose caller is cancelled (deadline passed, client gone) is cancelled in the engine too.
        """
        number = next(self._numbers)
        answer = self._line.send(number, message)
        self._open.add(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            if not isinstance(message, Ping):
                self._line.send(next(self._numbers), Cancel(number)).cancel()  # nobody waits for its reply
            raise
        finally:
            self._open.discard(answer)

    def lose(self) -> None:
        """The engine has died: end what was asked of it."""
        self.up = False
        for answer in self._open:
            if not answer.done():
                answer.set_exception(
                    Fault(
                        "engine_unavailable",
                        "The engine that worked on this request has died; another is being started.",
                        action="Send the request again; sessions are not lost.",
                        retry_after=1,
                    )
                )

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
        reply = await station.ask(request)
        if isinstance(reply, Pong):
            raise Fault("internal_error", "The engine dropped the request.")
        return reply

    async def _pick(self, session: str) -> _Station:
        if not self.ready:
            async with self._change:
                await self._change.wait_for(lambda: self.ready)
        up = [station for station in self._stations if station.up]
        return up[0] if len(up) == 1 else max(up, key=lambda station: station.weight(session))

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
                    station.up = True
                    await self._tell()
                await dead
            finally:
                asyncio.get_running_loop().remove_reader(descriptor)
                os.close(descriptor)
            station.lose()
            await self._tell()
            self._on_death(pid)

    async def _next_process(self, station: _Station, last: int) -> int:
        while (pid := self._shared.pid(station.index)) in {0, last}:
            await asyncio.sleep(_POLL_SECONDS)
        return pid

    async def _answers(self, station: _Station, dead: asyncio.Future[None]) -> bool:
        seconds = _PING_SECONDS
        while not dead.done():
            try:
                await asyncio.wait_for(station.ask(Ping()), seconds)
            except TimeoutError:
                seconds = min(2 * seconds, _LONGEST_PING_SECONDS)  # swallowed, or the machine is that slow
            else:
                return True
        return False

    async def _tell(self) -> None:
        async with self._change:
            self._change.notify_all()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
