"""The engine's front desk: one message in, one reply out. It runs in the engine's process, without HTTP or LitServe.

Message -> Desk.answer -> Reply      never raises: an exception would have to cross the process border
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Protocol

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome
from kshot_server.messages import Cancel, Message, Ping, Pong, Reply, Work

__all__ = ["Desk", "Submits"]


class Submits(Protocol):
    """What the desk needs of an engine."""

    def submit(self, request: AdaptRequest | ClassifyRequest) -> Future[Outcome]:
        """Take a request; the future gets one outcome and no exception."""


class Desk:
    """Keeps the open work by ticket, so that it can be cancelled."""

    def __init__(self, engine: Submits) -> None:
        self._engine = engine
        self._open: dict[str, Future[Outcome]] = {}

    async def answer(self, message: Message) -> Reply:
        """Answer one message; many may be open at once."""
        match message:
            case Work(ticket, request):
                return await self._work(ticket, request)
            case Cancel(ticket):
                future = self._open.get(ticket)
                if future is not None:
                    future.cancel()  # takes hold only if the engine has not begun, and then the engine drops it
                return Pong()
            case Ping():
                return Pong()

    async def _work(self, ticket: str, request: AdaptRequest | ClassifyRequest) -> Reply:
        future = self._open[ticket] = self._engine.submit(request)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                raise  # this task was cancelled from outside, not the work
            return Pong()
        finally:
            del self._open[ticket]
