"""Which kernels compute the operations of this package: Triton's on a GPU, torch's own everywhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

__all__ = ["everywhere", "kernels_for", "precision", "suits", "tf32_products"]


_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it once, too


class _State(threading.local):
    everywhere = False
    tf32 = False


_state = _State()


@contextmanager
def everywhere() -> Iterator[None]:
    """Within, networks of this thread take the operations of this package on any device: to compare them."""
    before, _state.everywhere = _state.everywhere, True
    try:
        yield
    finally:
        _state.everywhere = before


@contextmanager
def tf32_products() -> Iterator[None]:
    """Within, products of convolutions that this thread begins are TF32 where the kernels are Triton's.

    That is what torch's own convolutions are on a GPU unless they are told otherwise: ten bits of mantissa, sums in
    single precision. Everywhere else it changes nothing.
    """
    before, _state.tf32 = _state.tf32, True
    try:
        yield
    finally:
        _state.tf32 = before


def precision() -> str:
    """Of the products of convolutions that are begun now: "tf32" within `tf32_products`, else "ieee"."""
    return "tf32" if _state.tf32 else "ieee"


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """The kernels for a tensor: Triton's on a GPU, Numba's on a CPU; None where reference.py computes.

    That is in double precision, and on a CPU where operations are watched one by one: to be traced into a graph, or
    counted. With TRITON_INTERPRET=1, Triton's interpreter runs its kernels on the CPU, which is how tests compare them.
    """
    if tensor.dtype != torch.float32:
        return None
    if tensor.is_cuda or _INTERPRETED:
        return _triton()
    return _native() if tensor.device.type == "cpu" and not _watched() else None


def _watched() -> bool:
    depth: int = torch._C._len_torch_dispatch_stack()  # noqa: SLF001 - what torch.utils._python_dispatch is made of
    return depth > 0


def suits(tensor: Tensor) -> bool:
    """Whether networks should take the operations of this package for a tensor: there are kernels for it."""
    return _state.everywhere or kernels_for(tensor) is not None


@lru_cache(maxsize=1)
def _triton() -> ModuleType | None:
    if find_spec("triton") is None:  # torch for CUDA brings it along on Linux
        return None
    from kshot_models.batched import kernels  # noqa: PLC0415 - importing it needs Triton

    return kernels


@lru_cache(maxsize=1)
def _native() -> ModuleType:
    from kshot_models.batched import native  # noqa: PLC0415 - half a second, which GPUs need not wait for

    return native
