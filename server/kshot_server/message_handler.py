"""What an engine process does with messages: numbered messages in, numbered replies out, without HTTP or LitServe.

    sender, messages -> MessageHandler.take -> ... -> reply(sender, number, reply)

Replies come when they are ready, from whichever thread that was in. Nothing raises: an exception would have to cross
the process border.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome
from kshot_server.messages import Cancel, Cancelled, Message, Messages, Reply

__all__ = ["MessageHandler", "Submits"]


class Submits(Protocol):
    """What the handler needs of an engine."""

    def submit(self, request: AdaptRequest | ClassifyRequest) -> Future[Outcome]:
        """Take a request; the future gets one outcome and no exception."""

    def together(self) -> AbstractContextManager[None]:
        """Within it, what is submitted waits for the end: it may fit in one batch."""


class MessageHandler:
    """Keeps the open requests, so that they can be cancelled.

    Args:
        engine: works on requests.
        reply: told sender, number and reply; must not raise.
    """

    def __init__(self, engine: Submits, reply: Callable[[Hashable, int, Reply], None]) -> None:
        self._engine = engine
        self._reply = reply
        self._open: dict[tuple[Hashable, int], Future[Outcome]] = {}

    def take(self, sender: Hashable, messages: Messages) -> None:
        """Take what came together; many may be open at once."""
        with self._engine.together():
            for number, message in messages:
                self._take(sender, number, message)

    def _take(self, sender: Hashable, number: int, message: Message) -> None:
        if isinstance(message, Cancel):
            future = self._open.get((sender, message.number))
            if future is not None:
                future.cancel()  # takes hold only if the engine has not begun, and then the engine drops it
        else:
            future = self._open[sender, number] = self._engine.submit(message)
            future.add_done_callback(partial(self._answer, sender, number))

    def _answer(self, sender: Hashable, number: int, future: Future[Outcome]) -> None:
        self._open.pop((sender, number), None)
        self._reply(sender, number, Cancelled() if future.cancelled() else future.result())
