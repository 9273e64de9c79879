"""Tensors as kernels take them: the memory of a tensor as an array, or where it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_models.native.jit import Array, Array1

__all__ = ["address_of", "addresses", "array", "torchs_memory"]


def array(tensor: Tensor) -> Array:
    """The tensor's own memory; a copy only where it is not contiguous."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    values: Array = (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy()
    return values


def address_of(tensor: Tensor) -> int:
    """Where its numbers are.

    Raises:
        TypeError: they are not of single precision, of which kernels are made.
    """
    if tensor.dtype != torch.float32:
        raise TypeError(f"kernels for CPUs take float32, not {tensor.dtype}; convert all tensors of a task alike")
    return tensor.data_ptr()


def addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    """Where each is; 0 for None."""
    return [0 if tensor is None else address_of(tensor) for tensor in tensors]


def torchs_memory(count: int) -> Array1:
    """So many numbers of any value: torch's own, which its profiler counts."""
    return array(torch.empty(count))
