"""What an engine process does with a message: one message in, one reply out, without HTTP or LitServe.

Message -> MessageHandler.handle -> Reply      never raises: an exception would have to cross the process border
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Protocol

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome
from kshot_server.messages import Cancel, Message, Ping, Pong, Reply, Submit

__all__ = ["MessageHandler", "Submits"]


class Submits(Protocol):
    """What the handler needs of an engine."""

    def submit(self, request: AdaptRequest | ClassifyRequest) -> Future[Outcome]:
        """Take a request; the future gets one outcome and no exception."""


class MessageHandler:
    """Keeps the open submissions, so that they can be cancelled."""

    def __init__(self, engine: Submits) -> None:
        self._engine = engine
        self._open: dict[str, Future[Outcome]] = {}

    async def handle(self, message: Message) -> Reply:
        """Answer one message; many may be open at once."""
        match message:
            case Submit(submission, request):
                return await self._submit(submission, request)
            case Cancel(submission):
                future = self._open.get(submission)
                if future is not None:
                    future.cancel()  # takes hold only if the engine has not begun, and then the engine drops it
                return Pong()
            case Ping():
                return Pong()

    async def _submit(self, submission: str, request: AdaptRequest | ClassifyRequest) -> Reply:
        future = self._open[submission] = self._engine.submit(request)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                raise  # this task was cancelled from outside, not the work
            return Pong()
        finally:
            del self._open[submission]
