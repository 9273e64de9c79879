"""LitServe, 2 of 3: the line from an API process to an engine. A `LitSpec` is where LitServe hands out its queues.

    call(message) ── request queue (manager process) ──▶ worker
                  ◀── response queue ── response_buffer[uid] ── event

The typed routes themselves know no LitServe (endpoints/, put on the application by gateway.py); with a spec, LitServe
adds none of its own for the engine.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from litserve import LitServer
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, ResponseBufferItem

from kshot_server.faults import Fault
from kshot_server.messages import Message, Reply

__all__ = ["EngineLine"]


class EngineLine(LitSpec):  # type: ignore[misc] # LitServe is untyped
    """One engine's queues. It is a `fleet.Line`."""

    def __init__(self, index: int) -> None:
        super().__init__()
        # LitServe tells workers apart by the last segment of the path, so it must differ.
        self.api_path = f"/_engine/{index}"
        self._senders: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The worker needs its path alone; queues and buffers belong to the API process.
        return {"_endpoints": [], "api_path": self.api_path, "_server": None, "_max_batch_size": 1, "_senders": None}

    def setup(self, server: LitServer) -> None:
        """Take the queues. LitServe calls this in the main process, before it forks the API processes."""
        self.response_buffer = server.response_buffer
        self.request_queue = server._get_request_queue(self.api_path)  # noqa: SLF001 - the way of LitServe's own specs

    def decode_request(self, request: Message, context_kwargs: dict[str, Any] | None = None) -> Message:  # noqa: ARG002 - LitServe's signature
        """Nothing to decode."""
        return request

    def encode_response(self, output: Reply, context_kwargs: dict[str, Any] | None = None) -> Reply:  # noqa: ARG002 - LitServe's signature
        """Nothing to encode."""
        return output

    async def call(self, message: Message) -> Reply:
        """See `fleet.Line`."""
        uid = uuid.uuid4().hex
        item = ResponseBufferItem(asyncio.Event())
        self.response_buffer[uid] = item
        try:
            # Putting pickles the message and waits for the manager process: not on the event loop.
            await asyncio.get_running_loop().run_in_executor(
                self._pool(), self.request_queue.put, (self.response_queue_id, uid, time.monotonic(), message)
            )
            await item.event.wait()
        except (OSError, EOFError) as error:
            # After a kill of the main process the manager may end before this process does. Another replica can answer.
            raise Fault("engine_unavailable", "This server is ending: its queues are gone.", retry_after=1) from error
        finally:
            # LitServe leaves the entry of a cancelled wait behind for ever.
            self.response_buffer.pop(uid, None)
        reply, status = item.response
        if status != LitAPIStatus.OK:
            raise Fault("internal_error", "The engine process failed on a message.")
        return reply  # type: ignore[no-any-return] # LitServe leaves it untyped; message_handler.py answers nothing else

    def _pool(self) -> ThreadPoolExecutor:
        # Made on first use, in the API process: threads do not survive a fork. One thread keeps messages in order (a
        # Cancel must not overtake its Work) and one connection to the manager open.
        if self._senders is None:
            self._senders = ThreadPoolExecutor(1, thread_name_prefix="engine-line")
        return self._senders
