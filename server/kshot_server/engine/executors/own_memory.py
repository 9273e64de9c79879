"""Session weights in memory of their own, away from the heap on which the computation lives and dies.

What lives long must not lie among what lives for a moment: some hundred kilobytes that stay behind in each region where
an adaptation had its activations keep all of that region from being used again. 500 cached sessions of 0.5 MB held 4 GB
that way, once support sets of several sizes came.

    slab    pages of its own, cut into places of one size; goes back to the system when all of them are free
    place   where the weights of a session lie, until the last view of them is gone

Fresh pages for each session would cost a millisecond of page faults, and interrupt the other cores when they go.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot_models.types import Params

__all__ = ["Held", "OwnMemory"]

_ALIGNMENT = 64  # bytes; a cache line and the widest vector
_LEAST_BYTES = 1 << 16  # below this the heap will do
_SLAB_BYTES = 1 << 22


class Held(NamedTuple):
    """A session's parameters in memory of their own."""

    values: Params
    pieces: list[Tensor]  # the memory: bytes, 0 between the tensors


class OwnMemory:
    """Memory for what adaptations come to. Who computes may take some of it beforehand; the rest is copied there."""

    def __init__(self) -> None:
        self._taken: dict[int, Tensor] = {}  # by address

    def take(self, size: int) -> Tensor:
        """So many bytes, uint8 (size,), of any value."""
        memory = _memory(size)
        self._taken[memory.data_ptr()] = memory
        return memory

    def hold(self, task: Params) -> Held:
        """`task` in this memory, of the same shapes and memory formats: tensors that do not lie there are copied."""
        there: dict[str, Tensor] = {}
        pieces: dict[int, Tensor] = {}
        for name, values in task.items():
            start = values.untyped_storage().data_ptr()
            if (piece := self._taken.get(start)) is not None:
                there[name], pieces[start] = values, piece
        copies, memory = _copied({name: values for name, values in task.items() if name not in there})
        return Held({name: there[name] if name in there else copies[name] for name in task}, [*pieces.values(), memory])


def _copied(task: Params) -> tuple[Params, Tensor]:
    """A copy in one piece, and that."""
    dense = {name: _dense(values) for name, values in task.items()}
    sizes = [-(-values.nbytes // _ALIGNMENT) * _ALIGNMENT for values in dense.values()]
    memory = _memory(sum(sizes))
    kinds = {values.dtype: memory.view(values.dtype) for values in dense.values()}
    copy: Params = {}
    start = 0
    for (name, values), size in zip(dense.items(), sizes, strict=True):
        if size > values.nbytes:
            memory[start + values.nbytes : start + size] = 0
        copy[name] = kinds[values.dtype].as_strided(values.shape, values.stride(), start // values.itemsize)
        start += size
    torch._foreach_copy_(list(copy.values()), list(dense.values()))
    return copy, memory


def _dense(values: Tensor) -> Tensor:
    """Itself, or a copy without gaps, repetitions and overlaps."""
    plain = values.is_contiguous() or (values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last))
    return values if plain else values.clone(memory_format=torch.preserve_format).contiguous()


def _memory(size: int) -> Tensor:
    if size >= _LEAST_BYTES:
        with contextlib.suppress(OSError):  # the system's limit on mappings
            return torch.from_numpy(_slabs.take(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)[:size])
    return torch.empty(size, dtype=torch.uint8)


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
