"""A thread that hands on what has gathered while it handed on what came before.

    add, add ──▶ ┌───────────┐ ──▶ hand_on([a, b])
    add ───────▶ │ gathering │     (while that runs, and for a moment after it: add, add, add)
                 └───────────┘ ──▶ hand_on([c, d, e])

An item that comes alone goes at once, and many together cost as much as one. Where items follow each other closely, it
waits a moment for more of them: handing each on as soon as the one before is gone would have the threads take the
processor from each other several times for each item, and that costs more than all of the work.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Gathering"]

T = TypeVar("T")
_CLOSELY_SECONDS = 2e-3
_MOMENT_SECONDS = 1e-3


class Gathering(Generic[T]):
    """Starts its thread at once; it ends with the process.

    Args:
        hand_on: called with one or more items, in the order in which they came. Must not raise.
        name: of the thread.
    """

    def __init__(self, hand_on: Callable[[list[T]], None], name: str) -> None:
        self._hand_on = hand_on
        self._items: queue.SimpleQueue[T] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def add(self, item: T) -> None:
        """Have an item handed on. From any thread."""
        self._items.put(item)

    def _run(self) -> None:
        handed_on = 0.0
        while True:
            items = [self._items.get()]
            if time.monotonic() - handed_on < _CLOSELY_SECONDS:
                time.sleep(_MOMENT_SECONDS)
            try:
                while True:
                    items.append(self._items.get_nowait())
            except queue.Empty:
                self._hand_on(items)
            handed_on = time.monotonic()
