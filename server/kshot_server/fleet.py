"""The HTTP side's view of the engines: which are up, which one gets a request, what happens when one dies.

    submit(request) ── pick by session id ──▶ station ── Channel ──▶ engine process
                                                │
                        its process dies ───────┴──▶ all its open requests end at once: 503 engine_unavailable

A station is up from the moment that its engine's process can be connected to until that connection closes, which is
when the process ends.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from kshot_server.channel import Channel
from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome
from kshot_server.faults import Fault
from kshot_server.messages import Cancelled
from kshot_server.shared_state import SharedState

__all__ = ["Connect", "Fleet"]

_POLL_SECONDS = 0.05

Connect: TypeAlias = Callable[[int, int], Awaitable[Channel]]
"""Number of an engine, its process -> a way to it; OSError if the process is gone."""


class _Station:
    """One engine as seen from here."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.channel: Channel | None = None  # while it is up

    def weight(self, session: str) -> bytes:
        """Rendezvous hashing: the largest weight has the session, and losing a station moves only its own sessions."""
        return hashlib.blake2b(f"{self.index}/{session}".encode(), digest_size=8).digest()


class Fleet:
    """All engines of one server, for one API process. Lives on its event loop."""

    def __init__(
        self, connect: Connect, shared: SharedState, *, on_death: Callable[[int], None] = lambda _pid: None
    ) -> None:
        """Args: connect, the way to an engine; shared, where engines announce themselves; on_death, told the pid."""
        self._connect = connect
        self._shared = shared
        self._on_death = on_death
        self._stations = [_Station(index) for index in range(shared.engines)]
        self._change = asyncio.Condition()
        self._watches: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """Whether at least one engine answers."""
        return any(station.channel is not None for station in self._stations)

    def start(self) -> None:
        """Begin to watch the engines. To be called on the event loop; the fleet may be made before there is one."""
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
        reply = await (await self._pick(request.session)).ask(request)
        if isinstance(reply, Cancelled):
            raise Fault("internal_error", "The engine dropped the request.")
        return reply

    async def _pick(self, session: str) -> Channel:
        while True:
            up = [(station, station.channel) for station in self._stations if station.channel is not None]
            if len(up) == 1:
                return up[0][1]
            if up:
                return max(up, key=lambda pair: pair[0].weight(session))[1]
            async with self._change:
                await self._change.wait_for(lambda: self.ready)

    async def _watch(self, station: _Station) -> None:
        pid = 0
        while True:
            pid = await self._next_process(station, pid)
            try:
                channel = await self._connect(station.index, pid)
            except OSError:
                self._on_death(pid)  # before it was seen
                continue
            try:
                await self._set(station, channel)
                await channel.closed
            finally:
                channel.close()
            await self._set(station, None)
            self._on_death(pid)

    async def _next_process(self, station: _Station, last: int) -> int:
        while (pid := self._shared.pid(station.index)) in {0, last}:
            await asyncio.sleep(_POLL_SECONDS)
        return pid

    async def _set(self, station: _Station, channel: Channel | None) -> None:
        station.channel = channel
        async with self._change:
            self._change.notify_all()
