"""Session weights in memory of their own, away from the heap on which the computation lives and dies.

What lives long must not lie among what lives for a moment: some hundred kilobytes that stay behind in each region where
an adaptation had its activations keep all of that region from being used again. 500 cached sessions of 0.5 MB held 4 GB
that way, once support sets of several sizes came. Pages of their own also go back to the system when a session goes.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

from kshot_models.types import Params

__all__ = ["in_own_memory"]

_ALIGNMENT = 64  # bytes; a cache line and the widest vector
_LEAST_BYTES = 1 << 16  # below this a mapping costs more than it saves; and a process may have some 65,000 of them


def in_own_memory(task: Params) -> tuple[Params, int]:
    """A copy of `task`, of the same shapes and memory formats, in one piece.

    Returns:
        the copy, and the bytes that it holds.
    """
    layouts = {name: torch.empty_like(values, device="meta") for name, values in task.items()}
    sizes = {name: -(-layout.nbytes // _ALIGNMENT) * _ALIGNMENT for name, layout in layouts.items()}
    memory = _memory(sum(sizes.values()))
    copy: Params = {}
    start = 0
    for name, layout in layouts.items():
        flat = memory[start : start + layout.nbytes].view(layout.dtype)
        copy[name] = flat.as_strided(layout.shape, layout.stride()).copy_(task[name])
        start += sizes[name]
    return copy, memory.nbytes


def _memory(size: int) -> Tensor:
    if size >= _LEAST_BYTES:
        try:
            # Private: shared pages would be a file each. The tensor holds the mapping, and the last view the tensor.
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:  # the system's limit on mappings
            pass
        else:
            return torch.frombuffer(pages, dtype=torch.uint8)
    return torch.empty(size, dtype=torch.uint8)
