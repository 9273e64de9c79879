"""Convolutions as one product with each position's 3x3 surroundings: for few channels, strides and small images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.jit import Array3, Array5, array, compiled
from kshot_models.batched.native.scratch import scratch

__all__ = ["Convolved", "again", "convolved", "gradients", "input_gradient", "weight_gradient"]


_NARROW = 4  # channels up to which surroundings are laid out in columns: rows of a few numbers are no vectors


class Convolved(NamedTuple):
    """A convolution that has been computed, and what its gradients need of it."""

    inputs: Tensor  # (tasks, n, height, width, inside)
    filters: Tensor  # (tasks, outside, 9 inside)
    stride: int
    patches: Tensor | None  # (tasks, positions, 9 inside), or of few channels (tasks, 9 inside, positions); if kept


def convolved(inputs: Tensor, filters: Tensor, stride: int, *, keep: bool) -> tuple[Tensor, Convolved]:
    """(tasks, n, height, width, inside) by (tasks, outside, 9 inside) -> (tasks, n, height', width', outside)."""
    patches = _patches(inputs, stride, keep=keep)
    out = _multiplied(patches, inputs, filters, stride)
    return out, Convolved(inputs, filters, stride, patches if keep else None)


def again(done: Convolved, filters: Tensor) -> Tensor:
    """The same inputs by other filters."""
    return _multiplied(_patches_of(done), done.inputs, filters, done.stride)


def gradients(done: Convolved, grad: Tensor, *, inputs: bool, filters: bool) -> tuple[Tensor | None, Tensor | None]:
    """Those of the inputs and the filters, each if it is asked for."""
    height, width, inside = done.inputs.shape[2:]
    return (
        input_gradient(grad, done.filters, done.stride, height, width) if inputs else None,
        _filters_gradient(_patches_of(done), grad, inside) if filters else None,
    )


def input_gradient(grad: Tensor, filters: Tensor, stride: int, height: int, width: int) -> Tensor:
    """(tasks, n, height', width', outside) by (tasks, outside, 9 inside) -> (tasks, n, height, width, inside)."""
    tasks, n = grad.shape[:2]
    sent = grad.reshape(tasks, -1, grad.shape[-1])
    patches = scratch("sent patches", tasks, sent.shape[1], filters.shape[2])
    torch.bmm(sent, filters, out=patches)
    found = torch.zeros((tasks, n, height, width, filters.shape[2] // 9), dtype=grad.dtype)
    _gather(patches.numpy(), stride, found.numpy())
    return found


def weight_gradient(inputs: Tensor, grad: Tensor, stride: int) -> Tensor:
    """(tasks, n, height, width, inside) by (tasks, n, height', width', outside) -> (tasks, outside, 9 inside)."""
    return _filters_gradient(_patches(inputs, stride, keep=False), grad, inputs.shape[-1])


def _filters_gradient(patches: Tensor, grad: Tensor, inside: int) -> Tensor:
    sent = grad.reshape(len(grad), -1, grad.shape[-1])
    if inside <= _NARROW:  # in this order; products of other shapes are several times slower
        return torch.bmm(patches, sent).transpose(1, 2).contiguous()
    return torch.bmm(sent.transpose(1, 2), patches)


def _multiplied(patches: Tensor, inputs: Tensor, filters: Tensor, stride: int) -> Tensor:
    tasks, n, height, width, inside = inputs.shape
    rows = patches.transpose(1, 2) if inside <= _NARROW else patches
    out = torch.bmm(rows, filters.transpose(1, 2))
    return out.view(tasks, n, -(-height // stride), -(-width // stride), filters.shape[1])


def _patches_of(done: Convolved) -> Tensor:
    return _patches(done.inputs, done.stride, keep=False) if done.patches is None else done.patches


def _patches(inputs: Tensor, stride: int, *, keep: bool) -> Tensor:
    """Scratch, unless they are kept."""
    tasks, n, height, width, inside = inputs.shape
    positions = n, -(-height // stride), -(-width // stride)
    narrow = inside <= _NARROW
    size = (tasks, 9 * inside, *positions) if narrow else (tasks, math.prod(positions), 9 * inside)
    patches = torch.empty(size) if keep else scratch("patches", *size)
    (_scatter_columns if narrow else _scatter)(array(inputs), stride, patches.numpy())
    return patches.flatten(2)


@compiled
def _scatter_columns(images: Array5, stride: int, columns: Array5) -> None:
    tasks, places, n, down, across = columns.shape
    height, width, channels = images.shape[2:]
    for t in range(tasks):
        for k in range(places):
            place, c = k // channels, k % channels
            left = place % 3 - 1
            first = 1 if left < 0 else 0
            end = min(across, (width - left + stride - 1) // stride)  # where surroundings leave the image
            for i in range(n):
                for y in range(down):
                    yy = y * stride + place // 3 - 1
                    columns[t, k, i, y, :] = np.float32(0.0)
                    if 0 <= yy < height:
                        for x in range(first, end):
                            columns[t, k, i, y, x] = images[t, i, yy, np.uint64(x * stride + left), c]


@compiled
def _scatter(images: Array5, stride: int, patches: Array3) -> None:
    """Write each position's surroundings, 0 outside of the image."""
    tasks, n, height, width, channels = images.shape
    down, across = (height + stride - 1) // stride, (width + stride - 1) // stride
    for t in range(tasks):
        for i in range(n):
            for y in range(down):
                for x in range(across):
                    row = (i * down + y) * across + x
                    for place in range(9):
                        yy, xx = y * stride + place // 3 - 1, x * stride + place % 3 - 1
                        at = place * channels
                        if 0 <= yy < height and 0 <= xx < width:
                            for c in range(channels):
                                patches[t, row, at + c] = images[t, i, yy, xx, c]
                        else:
                            for c in range(channels):
                                patches[t, row, at + c] = np.float32(0.0)


@compiled
def _gather(patches: Array3, stride: int, images: Array5) -> None:
    """Add each position's surroundings to the image: the transpose of `_scatter`."""
    tasks, n, height, width, channels = images.shape
    down, across = (height + stride - 1) // stride, (width + stride - 1) // stride
    for t in range(tasks):
        for i in range(n):
            for y in range(down):
                for x in range(across):
                    row = (i * down + y) * across + x
                    for place in range(9):
                        yy, xx = y * stride + place // 3 - 1, x * stride + place % 3 - 1
                        if 0 <= yy < height and 0 <= xx < width:
                            at = place * channels
                            for c in range(channels):
                                images[t, i, yy, xx, c] += patches[t, row, at + c]
