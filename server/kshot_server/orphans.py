"""No process outlives the main one. If that is killed outright it cannot tell its children, so they look themselves.

Without this, children of a killed server would hold its port and memory for ever. PR_SET_PDEATHSIG is no help: it fires
when the *thread* that started the child ends, and LitServe restarts workers from a thread.
"""

from __future__ import annotations

import os
import select
import threading
import time

__all__ = ["end_with_parent", "end_with_process", "forked_children_end_with"]

_INTERVAL_SECONDS = 0.5


def end_with_parent(parent: int) -> None:
    """Start a thread that ends this process, without ceremony, once `parent` is not its parent any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_INTERVAL_SECONDS)
        # Not sys.exit: that would end this thread alone, and there is nobody left to report to.
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def end_with_process(pid: int) -> None:
    """Start a thread that ends this process in the same way, once the process `pid` has ended: at once."""

    def watch() -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            os._exit(1)
        select.select([descriptor], [], [])
        os._exit(1)

    threading.Thread(target=watch, name=f"watch-{pid}", daemon=True).start()


def forked_children_end_with(main_pid: int) -> None:
    """From now on, each process forked from this one, whose pid is `main_pid`, watches it as `end_with_parent` does."""
    armed = True

    def after_fork() -> None:
        nonlocal armed
        if armed:
            armed = False  # in the child; its own children, if it has any, have another parent
            end_with_parent(main_pid)

    os.register_at_fork(after_in_child=after_fork)
