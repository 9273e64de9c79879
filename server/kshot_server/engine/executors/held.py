"""A session's parameters as tensors in memory of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.types import Params
from kshot_server.engine.executors.own_memory import own_memory

__all__ = ["Held", "held"]

_ALIGNMENT = 64  # bytes; a cache line and the widest vector


class Held(NamedTuple):
    """A session's parameters, all in one piece."""

    values: Params
    memory: Tensor  # the piece: bytes, 0 between the tensors


def held(task: Params) -> Held:
    """A copy of `task` in memory of its own, of the same shapes and memory formats."""
    dense = {name: _dense(values) for name, values in task.items()}
    sizes = [-(-values.nbytes // _ALIGNMENT) * _ALIGNMENT for values in dense.values()]
    memory = torch.from_numpy(own_memory(sum(sizes)))
    kinds = {values.dtype: memory.view(values.dtype) for values in dense.values()}
    copy: Params = {}
    start = 0
    for (name, values), size in zip(dense.items(), sizes, strict=True):
        if size > values.nbytes:
            memory[start + values.nbytes : start + size] = 0
        copy[name] = kinds[values.dtype].as_strided(values.shape, values.stride(), start // values.itemsize)
        start += size
    torch._foreach_copy_(list(copy.values()), list(dense.values()))
    return Held(copy, memory)


def _dense(values: Tensor) -> Tensor:
    """Itself, or a copy without gaps, repetitions and overlaps."""
    plain = values.is_contiguous() or (values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last))
    return values if plain else values.clone(memory_format=torch.preserve_format).contiguous()
