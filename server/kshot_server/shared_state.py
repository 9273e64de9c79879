"""What all processes of one server see: which process runs each engine, and how far a shutdown has come.

It lives in shared memory made before any process starts. Each cell has one writer (an engine writes its own pid, the
main process the phase), and single words are written whole, so no killed process can hold a lock for ever.
"""

from __future__ import annotations

import multiprocessing
import os
from enum import IntEnum

__all__ = ["Phase", "SharedState"]


class Phase(IntEnum):
    """How far the server's life has come."""

    SERVING = 0
    LEAVING = 1
    """No longer ready, so that load balancers look elsewhere; whoever comes is still served."""
    DRAINING = 2
    """Requests that come now are refused; those in work are answered."""
    DRAINED = 3
    """The HTTP processes are gone; the engines may go too."""


class SharedState:
    """The shared cells. Picklable into processes that multiprocessing starts, inherited by those that it forks."""

    def __init__(self, engines: int) -> None:
        # The spawn context, because its shared memory works in both kinds of child.
        context = multiprocessing.get_context("spawn")
        self._pids = context.RawArray("q", engines)
        self._phase = context.RawValue("i", Phase.SERVING)

    @property
    def engines(self) -> int:
        """How many engines there are."""
        return len(self._pids)

    @property
    def phase(self) -> Phase:
        """How far a shutdown has come. Only the main process sets it, and only upwards."""
        return Phase(self._phase.value)

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase.value = max(self._phase.value, phase)

    def announce(self, engine: int) -> None:
        """Called by an engine process once it can work."""
        self._pids[engine] = os.getpid()

    def pid(self, engine: int) -> int:
        """The process that announced itself last, 0 if none did yet. It may be dead by now."""
        return int(self._pids[engine])
