"""How much memory a graph holds: bytes of the tensors that autograd keeps for the way back, counted, not sampled.

The size of the process says little: it holds what the allocator has not given back, and what everything else needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["SavedBytes", "count_saved_bytes"]


@dataclass
class SavedBytes:
    """Bytes of saved tensors; tensors that share memory count once."""

    now: int = 0
    peak: int = 0
    _holders: Counter[int] = field(default_factory=Counter)

    def keep(self, tensor: Tensor) -> _Held:
        """Count `tensor` for as long as what is returned lives."""
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        self._holders[address] += 1
        if self._holders[address] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)
        return _Held(self, tensor, address, size)

    def drop(self, address: int, size: int) -> None:
        """One holder less."""
        self._holders[address] -= 1
        if self._holders[address] == 0:
            self.now -= size


class _Held:
    """A saved tensor; autograd drops it once the node it belongs to has run."""

    def __init__(self, counter: SavedBytes, tensor: Tensor, address: int, size: int) -> None:
        self.tensor = tensor
        self._counter, self._address, self._size = counter, address, size

    def __del__(self) -> None:
        self._counter.drop(self._address, self._size)


@contextmanager
def count_saved_bytes() -> Iterator[SavedBytes]:
    """Count what is saved inside the block, on the way back too. `torch.func` transforms do not run in it."""
    counter = SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(counter.keep, lambda held: held.tensor):
        yield counter
