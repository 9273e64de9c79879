"""LitServe, 2 of 3: the line from an API process to an engine. A `LitSpec` is where LitServe hands out its queues.

    send(number, message) ─▶ gathering ── request queue (manager process) ──▶ worker
    future ◀── _Mailbox ◀── response_buffer[uid] ◀── response queue ───────────┘

LitServe answers each of its messages once, under an id of its own. Ours carry several requests, whose answers are ready
at different times: so a line has one id for good, and what LitServe takes for the waiting request is its mailbox.

The typed routes themselves know no LitServe (endpoints/, put on the application by gateway.py); with a spec, LitServe
adds none of its own for the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Any

from litserve import LitServer
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus

from kshot_server.faults import Fault
from kshot_server.gathering import Gathering
from kshot_server.messages import Message, Messages, Replies, Reply

__all__ = ["EngineLine"]


class EngineLine(LitSpec):  # type: ignore[misc] # LitServe is untyped
    """One engine's queues. It is a `fleet.Line`."""

    def __init__(self, index: int) -> None:
        super().__init__()
        # LitServe tells workers apart by the last segment of the path, so it must differ.
        self.api_path = f"/_engine/{index}"
        self._open: dict[int, asyncio.Future[Reply]] = {}
        self._unsent: Messages = []
        self._outgoing: Gathering[Messages] | None = None
        self._uid = ""

    def __getstate__(self) -> dict[str, Any]:
        # The worker needs its path alone; queues and buffers belong to the API process.
        return {"_endpoints": [], "api_path": self.api_path, "_server": None, "_max_batch_size": 1}

    def setup(self, server: LitServer) -> None:
        """Take the queues. LitServe calls this in the main process, before it forks the API processes."""
        self.response_buffer = server.response_buffer
        self.request_queue = server._get_request_queue(self.api_path)  # noqa: SLF001 - the way of LitServe's own specs

    def decode_request(self, request: Messages, context_kwargs: dict[str, Any] | None = None) -> Messages:  # noqa: ARG002 - LitServe's signature
        """Nothing to decode."""
        return request

    def encode_response(self, output: Replies, context_kwargs: dict[str, Any] | None = None) -> Replies:  # noqa: ARG002 - LitServe's signature
        """Nothing to encode."""
        return output

    def send(self, number: int, message: Message) -> asyncio.Future[Reply]:
        """See `fleet.Line`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._open[number] = future
        future.add_done_callback(lambda _: self._open.pop(number, None))
        if not self._unsent:
            loop.call_soon(self._flush)  # with what else this turn of the loop sends
        self._unsent.append((number, message))
        return future

    def _flush(self) -> None:
        outgoing = self._outgoing or self._opened()
        unsent, self._unsent = self._unsent, []
        outgoing.add(unsent)

    def _opened(self) -> Gathering[Messages]:
        """The sending thread, made on first use and so in the API process: threads do not survive a fork.

        One thread keeps messages in order (a Cancel must not overtake its request), and one connection to the manager
        open. Putting pickles and waits for the manager: not on the event loop.
        """
        self._uid = uuid.uuid4().hex
        self.response_buffer[self._uid] = _Mailbox(self._deliver)
        loop = asyncio.get_running_loop()

        def put(gathered: list[Messages]) -> None:
            parcel = [numbered for messages in gathered for numbered in messages]
            try:
                self.request_queue.put((self.response_queue_id, self._uid, time.monotonic(), parcel))
            except (OSError, EOFError):
                with contextlib.suppress(RuntimeError):  # the loop has ended, and so have all who waited
                    loop.call_soon_threadsafe(self._give_up, [number for number, _ in parcel])

        self._outgoing = Gathering(put, "engine-line")
        return self._outgoing

    def _deliver(self, replies: Replies) -> None:
        for number, reply in replies:
            future = self._open.get(number)
            if future is not None and not future.done():  # else nobody waits any more
                future.set_result(reply)

    def _give_up(self, numbers: list[int]) -> None:
        # After a kill of the main process the manager may end before this process does. Another replica can answer.
        for number in numbers:
            future = self._open.get(number)
            if future is not None and not future.done():
                future.set_exception(
                    Fault("engine_unavailable", "This server is ending: its queues are gone.", retry_after=1)
                )


class _Mailbox:
    """What stands in LitServe's buffer of waiting requests: LitServe writes `response`, then sets `event`."""

    def __init__(self, deliver: Callable[[Replies], None]) -> None:
        self.event = self
        self.response: tuple[Replies, LitAPIStatus] | None = None
        self.worker_id: int | None = None
        self._deliver = deliver

    def set(self) -> None:
        """Take out what LitServe has put in. It does so on the event loop, reply by reply."""
        assert self.response is not None
        replies, status = self.response
        assert status == LitAPIStatus.OK  # worker.py sends nothing else
        self._deliver(replies)
