"""Normalization with its first and second derivatives: for each, one kernel of sums and one of values.

A kernel of sums writes what each part of a task's rows adds up to; the kernel of values adds the parts up again, in
their order, so that the same input gives the same bits. The formulas are in ../normalization.py.
"""

# See convolution.py on the names and types of kernels.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from kshot_models.batched.kernels.tiles import SIZES, column_sum, picked, places, tiling

if TYPE_CHECKING:
    from kshot_models.batched.normalization import Features, Pooling

__all__ = ["normalize", "normalize_gradient", "normalize_second_gradient"]


def normalize(features: Features, shape: Pooling) -> tuple[Tensor, Tensor, Tensor]:
    """See ../normalization_reference.py."""
    raw, gain, bias, share = (tensor.contiguous() for tensor in features)
    cut = tiling(raw, pool=shape.pool)
    tasks, n, height, width, channels = raw.shape
    sums = raw.new_empty(tasks, cut.parts, 3, channels)
    _moments[cut.grid](raw, share, sums, *cut.sizes, **cut.constants)
    side = 2 if shape.pool else 1
    out = raw.new_empty(tasks, n, height // side, width // side, channels)
    moments = raw.new_empty(2, tasks, channels)
    _normalize[cut.grid](raw, gain, bias, sums, out, *moments, *cut.sizes, shape.epsilon, **cut.constants)
    return out, moments[0], moments[1]


def normalize_gradient(
    features: Features, moments: tuple[Tensor, Tensor], grad: Tensor, shape: Pooling
) -> tuple[Tensor, Tensor, Tensor]:
    """See ../normalization_reference.py."""
    raw, gain, bias, share = (tensor.contiguous() for tensor in features)
    mean, variance, grad = (tensor.contiguous() for tensor in (*moments, grad))
    cut = tiling(raw, pool=shape.pool)
    tasks, *_, channels = raw.shape
    sums = raw.new_empty(tasks, cut.parts, 2, channels)
    given = (raw, gain, bias, share, mean, variance, grad)
    _gradient_sums[cut.grid](*given, sums, *cut.sizes, shape.epsilon, **cut.constants)
    found, small = torch.empty_like(raw), raw.new_empty(2, tasks, channels)
    _gradient[cut.grid](*given, sums, found, *small, *cut.sizes, shape.epsilon, **cut.constants)
    return found, small[0], small[1]


def normalize_second_gradient(
    features: Features,
    moments: tuple[Tensor, Tensor],
    grad: Tensor,
    sums: tuple[Tensor, Tensor],
    changes: tuple[Tensor, Tensor, Tensor],
    shape: Pooling,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ../normalization_reference.py."""
    given = tuple(tensor.contiguous() for tensor in (*features, *moments, grad, *sums, *changes))
    raw, gain = given[:2]
    cut = tiling(raw, pool=shape.pool)
    tasks, *_, channels = raw.shape
    parts = raw.new_empty(tasks, cut.parts, 3, channels)
    _second_sums[cut.grid](*given[:7], given[9], parts, *cut.sizes, shape.epsilon, **cut.constants)
    of_raw, of_gain, of_grad = torch.empty_like(raw), torch.empty_like(gain), torch.empty_like(given[6])
    _second[cut.grid](*given, parts, of_raw, of_gain, of_grad, *cut.sizes, shape.epsilon, **cut.constants)
    return of_raw, of_gain, of_grad


@triton.jit(do_not_specialize=SIZES)
def _moments(
    raw, share, sums, n, height, width, parts, length,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Of a part: the sum of shares, the mean, and the sum of squared distances from that mean."""
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    raw += task * n * height * width * CHANNELS
    total = tl.zeros((BLOCK,), tl.float32)
    weight = 0.0
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        image, position, there, _, _ = places(start, stop, n, height, width, ROWS, POSITIONS)
        a = tl.load(share + task * n + image, mask=image < n, other=0.0)[:, None] / (height * width)
        a = tl.where(there, a, 0.0)
        mask = there[:, :, None] & (channel < CHANNELS)[None, None, :]
        z = tl.load(raw + position[:, :, None] * CHANNELS + channel[None, None, :], mask=mask, other=0.0)
        total += tl.sum(tl.sum(a[:, :, None] * z, 1), 0)
        weight += tl.sum(a)
    mean = total / tl.where(weight > 0, weight, 1.0)
    spread = tl.zeros((BLOCK,), tl.float32)
    for start in range(part * length, stop, ROWS):
        image, position, there, _, _ = places(start, stop, n, height, width, ROWS, POSITIONS)
        a = tl.load(share + task * n + image, mask=image < n, other=0.0)[:, None] / (height * width)
        a = tl.where(there, a, 0.0)
        mask = there[:, :, None] & (channel < CHANNELS)[None, None, :]
        z = tl.load(raw + position[:, :, None] * CHANNELS + channel[None, None, :], mask=mask, other=0.0)
        away = z - mean[None, None, :]
        spread += tl.sum(tl.sum(a[:, :, None] * away * away, 1), 0)
    sums += (task * parts + part) * 3 * CHANNELS
    inside = channel < CHANNELS
    tl.store(sums + channel, tl.zeros((BLOCK,), tl.float32) + weight, mask=inside)
    tl.store(sums + CHANNELS + channel, mean, mask=inside)
    tl.store(sums + 2 * CHANNELS + channel, spread, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _normalize(
    raw, gain, bias, sums, out, means, variances, n, height, width, parts, length, epsilon,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    each = tl.arange(0, PARTS)
    at = sums + task * parts * 3 * CHANNELS + each[:, None] * 3 * CHANNELS + channel[None, :]
    known = (each < parts)[:, None] & inside[None, :]
    weight = tl.load(at, mask=known, other=0.0)
    middle = tl.load(at + CHANNELS, mask=known, other=0.0)
    spread = tl.load(at + 2 * CHANNELS, mask=known, other=0.0)
    mean = tl.sum(weight * middle, 0)
    away = middle - mean[None, :]
    variance = tl.sum(spread + weight * away * away, 0)
    if part == 0:
        tl.store(means + task * CHANNELS + channel, mean, mask=inside)
        tl.store(variances + task * CHANNELS + channel, variance, mask=inside)
    r = 1.0 / tl.sqrt(variance + epsilon)
    g = tl.load(gain + task * CHANNELS + channel, mask=inside, other=0.0)
    b = tl.load(bias + task * CHANNELS + channel, mask=inside, other=0.0)
    raw += task * n * height * width * CHANNELS
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    out += task * n * (height // side) * (width // side) * CHANNELS
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        _, position, there, goal, whole = places(start, stop, n, height, width, ROWS, POSITIONS)
        mask = there[:, :, None] & inside[None, None, :]
        z = tl.load(raw + position[:, :, None] * CHANNELS + channel[None, None, :], mask=mask, other=0.0)
        y = (z - mean[None, None, :]) * r[None, None, :] * g[None, None, :] + b[None, None, :]
        largest = tl.maximum(tl.max(y, 1), 0.0)
        tl.store(out + goal[:, None] * CHANNELS + channel[None, :], largest, mask=whole[:, None] & inside[None, :])


@triton.jit
def _at_rows(
    raw, grad, mean, r, g, b, start, stop, n, height, width, channel,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of a tile: the normalized features x, the slope of `out` in y, dy, where it lies, and its mask; see places."""
    image, position, there, goal, whole = places(start, stop, n, height, width, ROWS, POSITIONS)
    inside = channel < CHANNELS
    mask = there[:, :, None] & inside[None, None, :]
    at = position[:, :, None] * CHANNELS + channel[None, None, :]
    z = tl.load(raw + at, mask=mask, other=0.0)
    x = tl.where(mask, (z - mean[None, None, :]) * r[None, None, :], 0.0)
    slope = picked(x * g[None, None, :] + b[None, None, :], whole, POSITIONS)
    slope = tl.where(mask, slope, 0.0)
    goals = goal[:, None] * CHANNELS + channel[None, :]
    wanted = whole[:, None] & inside[None, :]
    dout = tl.load(grad + goals, mask=wanted, other=0.0)
    return x, slope, slope * dout[:, None, :], at, mask, goals, wanted, image


@triton.jit
def _of_task(means, variances, gain, bias, task, channel, epsilon, CHANNELS: tl.constexpr):
    inside = channel < CHANNELS
    at = task * CHANNELS + channel
    mean = tl.load(means + at, mask=inside, other=0.0)
    r = 1.0 / tl.sqrt(tl.load(variances + at, mask=inside, other=1.0) + epsilon)
    return mean, r, tl.load(gain + at, mask=inside, other=0.0), tl.load(bias + at, mask=inside, other=0.0)


@triton.jit(do_not_specialize=SIZES)
def _gradient_sums(
    raw, gain, bias, share, means, variances, grad, sums, n, height, width, parts, length, epsilon,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Of a part: S2 and S1."""
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mean, r, g, b = _of_task(means, variances, gain, bias, task, channel, epsilon, CHANNELS)
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    raw += task * n * height * width * CHANNELS
    grad += task * n * (height // side) * (width // side) * CHANNELS
    s1 = tl.zeros((BLOCK,), tl.float32)
    s2 = tl.zeros((BLOCK,), tl.float32)
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        x, _, dy, _, _, _, _, _ = _at_rows(
            raw, grad, mean, r, g, b, start, stop, n, height, width, channel, POSITIONS, ROWS, CHANNELS
        )
        s1 += tl.sum(tl.sum(dy, 1), 0)
        s2 += tl.sum(tl.sum(dy * x, 1), 0)
    sums += (task * parts + part) * 2 * CHANNELS
    tl.store(sums + channel, s2, mask=channel < CHANNELS)
    tl.store(sums + CHANNELS + channel, s1, mask=channel < CHANNELS)


@triton.jit(do_not_specialize=SIZES)
def _gradient(
    raw, gain, bias, share, means, variances, grad, sums, of_raw, of_gain, of_bias,
    n, height, width, parts, length, epsilon,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    mean, r, g, b = _of_task(means, variances, gain, bias, task, channel, epsilon, CHANNELS)
    sums += task * parts * 2 * CHANNELS
    s2 = column_sum(sums, parts, channel, CHANNELS, 0, 2, PARTS)
    s1 = column_sum(sums, parts, channel, CHANNELS, 1, 2, PARTS)
    if part == 0:
        tl.store(of_gain + task * CHANNELS + channel, s2, mask=inside)
        tl.store(of_bias + task * CHANNELS + channel, s1, mask=inside)
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    raw += task * n * height * width * CHANNELS
    of_raw += task * n * height * width * CHANNELS
    grad += task * n * (height // side) * (width // side) * CHANNELS
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        x, _, dy, at, mask, _, _, image = _at_rows(
            raw, grad, mean, r, g, b, start, stop, n, height, width, channel, POSITIONS, ROWS, CHANNELS
        )
        a = tl.load(share + task * n + image, mask=image < n, other=0.0)[:, None, None] / (height * width)
        dz = (g * r)[None, None, :] * (dy - a * (s1[None, None, :] + x * s2[None, None, :]))
        tl.store(of_raw + at, dz, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _second_sums(
    raw, gain, bias, share, means, variances, grad, change, sums, n, height, width, parts, length, epsilon,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Of a part: U1, U2 and sum u dy."""
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mean, r, g, b = _of_task(means, variances, gain, bias, task, channel, epsilon, CHANNELS)
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    raw += task * n * height * width * CHANNELS
    change += task * n * height * width * CHANNELS
    grad += task * n * (height // side) * (width // side) * CHANNELS
    u1 = tl.zeros((BLOCK,), tl.float32)
    u2 = tl.zeros((BLOCK,), tl.float32)
    both = tl.zeros((BLOCK,), tl.float32)
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        x, _, dy, at, mask, _, _, image = _at_rows(
            raw, grad, mean, r, g, b, start, stop, n, height, width, channel, POSITIONS, ROWS, CHANNELS
        )
        a = tl.load(share + task * n + image, mask=image < n, other=0.0)[:, None, None] / (height * width)
        u = tl.load(change + at, mask=mask, other=0.0)
        u1 += tl.sum(tl.sum(a * u, 1), 0)
        u2 += tl.sum(tl.sum(a * u * x, 1), 0)
        both += tl.sum(tl.sum(u * dy, 1), 0)
    sums += (task * parts + part) * 3 * CHANNELS
    inside = channel < CHANNELS
    tl.store(sums + channel, u1, mask=inside)
    tl.store(sums + CHANNELS + channel, u2, mask=inside)
    tl.store(sums + 2 * CHANNELS + channel, both, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _second(
    raw, gain, bias, share, means, variances, grad, grad_gain, grad_bias, change, change_gain, change_bias, sums,
    of_raw, of_gain, of_grad, n, height, width, parts, length, epsilon,
    POSITIONS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    part, task = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    small = task * CHANNELS + channel
    mean, r, g, b = _of_task(means, variances, gain, bias, task, channel, epsilon, CHANNELS)
    s2 = tl.load(grad_gain + small, mask=inside, other=0.0)
    s1 = tl.load(grad_bias + small, mask=inside, other=0.0)
    p = tl.load(change_gain + small, mask=inside, other=0.0)
    q = tl.load(change_bias + small, mask=inside, other=0.0)
    sums += task * parts * 3 * CHANNELS
    u1 = column_sum(sums, parts, channel, CHANNELS, 0, 3, PARTS)
    u2 = column_sum(sums, parts, channel, CHANNELS, 1, 3, PARTS)
    e = column_sum(sums, parts, channel, CHANNELS, 2, 3, PARTS) - s1 * u1 - s2 * u2
    if part == 0:
        tl.store(of_gain + small, r * e, mask=inside)
    scale = g * r
    h1 = p * s1 - scale * (u2 * s1 + s2 * u1)
    h2 = p * s2 - 2.0 * scale * u2 * s2
    bent = g * e * r * r
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    raw += task * n * height * width * CHANNELS
    change += task * n * height * width * CHANNELS
    of_raw += task * n * height * width * CHANNELS
    grad += task * n * (height // side) * (width // side) * CHANNELS
    of_grad += task * n * (height // side) * (width // side) * CHANNELS
    stop = (part + 1) * length
    for start in range(part * length, stop, ROWS):
        x, slope, dy, at, mask, goals, wanted, image = _at_rows(
            raw, grad, mean, r, g, b, start, stop, n, height, width, channel, POSITIONS, ROWS, CHANNELS
        )
        a = tl.load(share + task * n + image, mask=image < n, other=0.0)[:, None, None] / (height * width)
        u = tl.load(change + at, mask=mask, other=0.0)
        of_dy = scale[None, None, :] * (u - u1[None, None, :] - u2[None, None, :] * x)
        of_dy += p[None, None, :] * x + q[None, None, :]
        tl.store(of_grad + goals, tl.sum(slope * of_dy, 1), mask=wanted)
        h = p[None, None, :] * dy - scale[None, None, :] * (u2[None, None, :] * dy + s2[None, None, :] * a * u)
        found = r[None, None, :] * (h - a * (h1[None, None, :] + x * h2[None, None, :])) - bent[None, None, :] * a * x
        tl.store(of_raw + at, found, mask=mask)
