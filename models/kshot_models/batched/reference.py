"""What the kernels compute, in torch's own operations: for any device and precision, and for tests."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

__all__ = ["convolve", "input_gradient", "weight_gradient"]


def convolve(inputs: Tensor, filters: Tensor, stride: int) -> Tensor:
    """See convolution.py."""
    tasks = len(inputs)
    grouped = F.conv2d(_to_groups(inputs), _to_filters(filters), stride=stride, padding=1, groups=tasks)
    return _from_groups(grouped, tasks)


def input_gradient(grad: Tensor, filters: Tensor, stride: int, height: int, width: int) -> Tensor:
    """See convolution.py."""
    tasks, n = grad.shape[:2]
    inside = filters.shape[-1] // 9
    like = grad.new_empty(n, tasks * inside, height, width)
    found, _, _ = _backward(_to_groups(grad), like, _to_filters(filters), stride, tasks, (True, False, False))
    return _from_groups(found, tasks)


def weight_gradient(inputs: Tensor, grad: Tensor, stride: int) -> Tensor:
    """See convolution.py."""
    tasks, inside, outside = len(inputs), inputs.shape[-1], grad.shape[-1]
    like = grad.new_empty(tasks * outside, inside, 3, 3)
    _, found, _ = _backward(_to_groups(grad), _to_groups(inputs), like, stride, tasks, (False, True, False))
    return found.view(tasks, outside, inside, 9).transpose(-1, -2).reshape(tasks, outside, 9 * inside)


def _backward(
    grad: Tensor, inputs: Tensor, filters: Tensor, stride: int, tasks: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad,
        inputs,
        filters,
        None,
        stride=(stride, stride),
        padding=(1, 1),
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=tasks,
        output_mask=wanted,
    )
    return found


def _to_groups(values: Tensor) -> Tensor:
    """(tasks, n, height, width, channels) -> (n, tasks * channels, height, width)."""
    return values.permute(1, 0, 4, 2, 3).flatten(1, 2)


def _from_groups(values: Tensor, tasks: int) -> Tensor:
    """The inverse of _to_groups."""
    return values.reshape(len(values), tasks, -1, *values.shape[2:]).permute(1, 0, 3, 4, 2)


def _to_filters(filters: Tensor) -> Tensor:
    """(tasks, outside, 9 * inside) -> (tasks * outside, inside, 3, 3)."""
    flat = filters.flatten(0, 1)
    return flat.view(len(flat), 3, 3, -1).permute(0, 3, 1, 2)
