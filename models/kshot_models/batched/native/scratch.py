"""Memory for what lives within one operation: the same for each, so that it stays in the processor's caches.

Fresh memory would be other memory each time, and two threads that go through all of the shared cache that way slow each
other down by a third.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

__all__ = ["scratch"]

_MOST = 8 << 20  # numbers, 32 MiB; what is larger fits no cache and is not kept


class _Kept(threading.local):
    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}


_kept = _Kept()


def scratch(name: str, *shape: int) -> Tensor:
    """A tensor of this shape, not filled, until this thread asks for the same name again.

    Args:
        name: of the use; tensors that are needed at the same time have different ones.
        shape: of single-precision numbers.
    """
    size = math.prod(shape)
    if size > _MOST:
        return torch.empty(shape)
    kept = _kept.by_name.get(name)
    if kept is None or len(kept) < size:
        kept = _kept.by_name[name] = torch.empty(size)
    return kept[:size].view(shape)
