"""How an API process ends: it refuses what comes, answers what it has, and only then closes its socket.

    SIGTERM ─▶ wait until the main process says DRAINING ─▶ and until nothing is in work ─▶ uvicorn's own handler

uvicorn by itself closes the socket first. Whoever came then met a refused connection, or none at all, where they now
read `draining` and when to try again. A signal to the whole process group, or to this process alone, changes nothing
before the main process has decided.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType

from kshot_server.shared_state import Phase, SharedState

__all__ = ["end_when_drained"]

_POLL_SECONDS = 0.05


def end_when_drained(shared: SharedState, in_flight: Callable[[], int]) -> None:
    """From now on, SIGTERM and SIGINT end this process when it is drained.

    To be called in the main thread, on the event loop, once uvicorn has installed its handlers.

    Args:
        shared: where the main process says how far the shutdown has come.
        in_flight: how many requests are in work.
    """
    loop = asyncio.get_running_loop()
    stop_uvicorn = signal.getsignal(signal.SIGTERM)
    assert callable(stop_uvicorn)
    drains: list[asyncio.Task[None]] = []  # a task that nobody holds may be collected before it ran

    async def drain() -> None:
        while shared.phase < Phase.DRAINING or in_flight():
            await asyncio.sleep(_POLL_SECONDS)
        stop_uvicorn(signal.SIGTERM, None)

    def begin() -> None:
        if not drains:
            drains.append(loop.create_task(drain()))

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
