"""Normalization, pooling and ReLU of tensors by the kernels of kshot_models/native/normalization.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.tensors import array
from kshot_models.native.jit import Array2, Array5
from kshot_models.native.normalization import gradient_of_tasks, normalize_tasks, second_gradient_of_tasks

if TYPE_CHECKING:
    from kshot_models.batched.normalization import Features, Pooling

__all__ = ["normalize", "normalize_gradient", "normalize_second_gradient"]


def normalize(features: Features, shape: Pooling) -> tuple[Tensor, Tensor, Tensor]:
    """out, mean and variance."""
    tasks, n, height, width, channels = features.raw.shape
    out = torch.empty((tasks, n, height // 2, width // 2, channels) if shape.pool else features.raw.shape)
    moments = torch.empty((4, tasks, channels))
    raw, gain, bias, share = map(array, features)
    normalize_tasks(raw, gain, bias, share, np.float32(shape.epsilon), shape.pool, array(out), array(moments))
    return out, moments[0], moments[1]


def normalize_gradient(
    features: Features, moments: tuple[Tensor, Tensor], grad: Tensor, shape: Pooling
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of raw, gain and bias."""
    of_raw, sums = torch.empty(features.raw.shape), torch.empty((2, *features.gain.shape))
    gradient_of_tasks(*_taken(features, moments, shape), array(grad), array(of_raw), array(sums))
    return of_raw, sums[0], sums[1]


def normalize_second_gradient(
    features: Features,
    moments: tuple[Tensor, Tensor],
    grad: Tensor,
    sums: tuple[Tensor, Tensor],
    changes: tuple[Tensor, Tensor, Tensor],
    shape: Pooling,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of raw, gain and `grad`."""
    of_raw, of_gain, of_grad = (
        torch.empty(features.raw.shape),
        torch.empty(features.gain.shape),
        torch.empty(grad.shape),
    )
    given = array(grad), array(sums[0]), array(sums[1])
    change, change_gain, change_bias = map(array, changes)
    results = array(of_raw), array(of_gain), array(of_grad)
    second_gradient_of_tasks(*_taken(features, moments, shape), *given, change, change_gain, change_bias, *results)
    return of_raw, of_gain, of_grad


def _taken(
    features: Features, moments: tuple[Tensor, Tensor], shape: Pooling
) -> tuple[Array5, Array2, Array2, Array2, Array2, Array2, np.float32, bool]:
    raw, gain, bias, share = map(array, features)
    return raw, gain, bias, share, array(moments[0]), array(moments[1]), np.float32(shape.epsilon), shape.pool
