"""Scaling, pooling and ReLU of tensors by the kernels of kshot_models/native/scaling.py."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.batched.native.tensors import array
from kshot_models.native.scaling import gradient_of_tasks, scale_tasks

__all__ = ["scale", "scale_gradient"]


def scale(raw: Tensor, factor: Tensor, shift: Tensor, *, pool: bool) -> Tensor:
    """relu(maxpool(factor raw + shift))."""
    tasks, n, height, width, channels = raw.shape
    out = torch.empty((tasks, n, height // 2, width // 2, channels) if pool else raw.shape, dtype=raw.dtype)
    scale_tasks(array(raw), array(factor), array(shift), pool, array(out))
    return out


def scale_gradient(
    raw: Tensor, factor: Tensor, shift: Tensor, grad: Tensor, *, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of raw, factor and shift."""
    of_raw = torch.empty(raw.shape, dtype=raw.dtype)
    of_factor, of_shift = torch.empty(factor.shape, dtype=raw.dtype), torch.empty(factor.shape, dtype=raw.dtype)
    results = array(of_raw), array(of_factor), array(of_shift)
    gradient_of_tasks(array(raw), array(factor), array(shift), array(grad), pool, *results)
    return of_raw, of_factor, of_shift
