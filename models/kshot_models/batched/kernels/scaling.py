"""Scaling by given moments, and its derivative. The formulas are in ../scaling.py."""

# See convolution.py on the names and types of kernels.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kshot_models.batched.kernels.tiles import SIZES, picked, places, tiling

__all__ = ["scale", "scale_gradient"]


def scale(raw: Tensor, factor: Tensor, shift: Tensor, *, pool: bool) -> Tensor:
    """See ../normalization_reference.py."""
    raw, factor, shift = (tensor.contiguous() for tensor in (raw, factor, shift))
    cut = tiling(raw, pool=pool)
    tasks, n, height, width, channels = raw.shape
    side = 2 if pool else 1
    out = raw.new_empty(tasks, n, height // side, width // side, channels)
    _scale[cut.grid](raw, factor, shift, out, *cut.sizes, **cut.constants)
    return out


def scale_gradient(
    raw: Tensor, factor: Tensor, shift: Tensor, grad: Tensor, *, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See ../normalization_reference.py."""
    raw, factor, shift, grad = (tensor.contiguous() for tensor in (raw, factor, shift, grad))
    cut = tiling(raw, pool=pool)
    sums = raw.new_empty(len(raw), cut.parts, 2, raw.shape[-1])
    found = torch.empty_like(raw)
    _scale_gradient[cut.grid](raw, factor, shift, grad, found, sums, *cut.sizes, **cut.constants)
    small = sums.sum(1)
    return found, small[:, 0], small[:, 1]


@triton.jit(do_not_specialize=SIZES)
def _scale(
    raw, factor, shift, out, n, height, width, parts, length,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    f = tl.load(factor + task * CHANNELS + channel, mask=inside, other=0.0)
    s = tl.load(shift + task * CHANNELS + channel, mask=inside, other=0.0)
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    raw += task * n * height * width * CHANNELS
    out += task * n * (height // side) * (width // side) * CHANNELS
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        _, position, there, goal, whole = places(start, stop, n, height, width, ROWS, POSITIONS)
        mask = there[:, :, None] & inside[None, None, :]
        z = tl.load(raw + position[:, :, None] * CHANNELS + channel[None, None, :], mask=mask, other=0.0)
        y = z * f[None, None, :] + s[None, None, :]
        largest = tl.maximum(tl.max(y, 1), 0.0)
        tl.store(out + goal[:, None] * CHANNELS + channel[None, :], largest, mask=whole[:, None] & inside[None, :])


@triton.jit(do_not_specialize=SIZES)
def _scale_gradient(
    raw, factor, shift, grad, of_raw, sums, n, height, width, parts, length,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    f = tl.load(factor + task * CHANNELS + channel, mask=inside, other=0.0)
    s = tl.load(shift + task * CHANNELS + channel, mask=inside, other=0.0)
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    raw += task * n * height * width * CHANNELS
    of_raw += task * n * height * width * CHANNELS
    grad += task * n * (height // side) * (width // side) * CHANNELS
    of_factor = tl.zeros((BLOCK,), tl.float32)
    of_shift = tl.zeros((BLOCK,), tl.float32)
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        _, position, there, goal, whole = places(start, stop, n, height, width, ROWS, POSITIONS)
        mask = there[:, :, None] & inside[None, None, :]
        at = position[:, :, None] * CHANNELS + channel[None, None, :]
        z = tl.load(raw + at, mask=mask, other=0.0)
        slope = tl.where(mask, picked(z * f[None, None, :] + s[None, None, :], whole, POSITIONS), 0.0)
        dout = tl.load(
            grad + goal[:, None] * CHANNELS + channel[None, :], mask=whole[:, None] & inside[None, :], other=0.0
        )
        dy = slope * dout[:, None, :]
        of_factor += tl.sum(tl.sum(dy * z, 1), 0)
        of_shift += tl.sum(tl.sum(dy, 1), 0)
        tl.store(of_raw + at, dy * f[None, None, :], mask=mask)
    sums += (task * parts + part) * 2 * CHANNELS
    tl.store(sums + channel, of_factor, mask=inside)
    tl.store(sums + CHANNELS + channel, of_shift, mask=inside)
