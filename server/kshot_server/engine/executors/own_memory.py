"""Memory of their own for session weights, away from the heap on which the computation lives and dies.

What lives long must not lie among what lives for a moment: some hundred kilobytes that stay behind in each region where
an adaptation had its activations keep all of that region from being used again. 500 cached sessions of 0.5 MB held 4 GB
that way, once support sets of several sizes came.

    slab    pages of its own, cut into places of one size; goes back to the system when all of them are free
    place   where the weights of a session lie, until the last view of them is gone

Fresh pages for each session would cost a millisecond of page faults, and interrupt the other cores when they go. No
torch here.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["own_memory", "own_numbers"]

_LEAST_BYTES = 1 << 16  # below this the heap will do
_SLAB_BYTES = 1 << 22


def own_memory(size: int) -> NDArray[np.uint8]:
    """So many bytes of any value, (size,)."""
    if size >= _LEAST_BYTES:
        with contextlib.suppress(OSError):  # the system's limit on mappings
            return _slabs.take(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)[:size]
    return np.empty(size, np.uint8)


def own_numbers(count: int) -> NDArray[np.float32]:
    """So many numbers of any value, (count,)."""
    return own_memory(4 * count).view(np.float32)


@dataclass(eq=False)
class _Slab:
    pages: mmap.mmap
    places: int
    used: int = 0


class _Slabs:
    """Of places of each size, those that are free."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[tuple[_Slab, int]]] = defaultdict(list)  # by size: slab, and where in it
        # A place comes back wherever the last view of it goes, in the middle of `take` too.
        self._lock = threading.RLock()

    def take(self, size: int) -> NDArray[np.uint8]:
        """Bytes that are free again when the last view of them is gone.

        Raises:
            OSError: the system has none.
        """
        with self._lock:
            free = self._free[size]
            if not free:
                slab = _new_slab(size)
                free += [(slab, number * size) for number in reversed(range(slab.places))]
            slab, start = free.pop()
            slab.used += 1
        place = np.frombuffer(slab.pages, np.uint8, size, start)
        weakref.finalize(place, self._give_back, slab, start, size).atexit = False
        return place

    def _give_back(self, slab: _Slab, start: int, size: int) -> None:
        with self._lock:
            free = self._free[size]
            free.append((slab, start))
            slab.used -= 1
            if slab.used == 0 and len(free) > slab.places:  # others have places too
                free[:] = [each for each in free if each[0] is not slab]


def _new_slab(size: int) -> _Slab:
    places = max(1, _SLAB_BYTES // size)
    # Private: shared pages would be a file each.
    pages = mmap.mmap(-1, places * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that has none
            pages.madvise(mmap.MADV_HUGEPAGE)
    return _Slab(pages, places)


_slabs = _Slabs()
