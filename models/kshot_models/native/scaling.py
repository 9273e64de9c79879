"""Scaling, pooling and ReLU, and their gradient: see batched/scaling.py."""

from __future__ import annotations

import numpy as np

from kshot_models.native.jit import Array2, Array5, compiled, inlined

__all__ = ["gradient_of_tasks", "scale_tasks", "scaled", "scaled_gradient"]


@compiled
def scale_tasks(raw: Array5, factor: Array2, shift: Array2, pool: bool, out: Array5) -> None:
    """`scaled`."""
    scaled(raw, factor, shift, pool, out)


@compiled
def gradient_of_tasks(
    raw: Array5,
    factor: Array2,
    shift: Array2,
    grad: Array5,
    pool: bool,
    of_raw: Array5,
    of_factor: Array2,
    of_shift: Array2,
) -> None:
    """`scaled_gradient`."""
    scaled_gradient(raw, factor, shift, grad, pool, of_raw, of_factor, of_shift)


@inlined
def scaled_gradient(
    raw: Array5,
    factor: Array2,
    shift: Array2,
    grad: Array5,
    pool: bool,
    of_raw: Array5,
    of_factor: Array2,
    of_shift: Array2,
) -> None:
    """See `scale_gradient`."""
    if pool:
        _pooled_gradient(raw, factor, shift, grad, of_raw, of_factor, of_shift)
    else:
        _plain_gradient(raw, factor, shift, grad, of_raw, of_factor, of_shift)


@inlined
def scaled(raw: Array5, factor: Array2, shift: Array2, pool: bool, out: Array5) -> None:
    """relu(maxpool(factor raw + shift))."""
    if pool:
        _pooled_scale(raw, factor, shift, out)
    else:
        _plain_scale(raw, factor, shift, out)


@inlined
def _plain_scale(raw: Array5, factor: Array2, shift: Array2, out: Array5) -> None:
    """relu(factor raw + shift); what is not a number stays so."""
    tasks, n, height, width, channels = raw.shape
    for t in range(tasks):
        for i in range(n):
            for y in range(height):
                for x in range(width):
                    for c in range(channels):
                        value = factor[t, c] * raw[t, i, y, x, c] + shift[t, c]
                        out[t, i, y, x, c] = np.float32(0.0) if value < 0 else value


@inlined
def _pooled_scale(raw: Array5, factor: Array2, shift: Array2, out: Array5) -> None:
    """relu(maxpool(factor raw + shift)); what is not a number stays so."""
    tasks, n, height, width, channels = raw.shape
    for t in range(tasks):
        for i in range(n):
            for y in range(height // 2):
                for x in range(width // 2):
                    for c in range(channels):
                        f, s = factor[t, c], shift[t, c]
                        most = f * raw[t, i, 2 * y, 2 * x, c] + s
                        value = f * raw[t, i, 2 * y, 2 * x + 1, c] + s
                        most = most if value < most or np.isnan(most) else value
                        value = f * raw[t, i, 2 * y + 1, 2 * x, c] + s
                        most = most if value < most or np.isnan(most) else value
                        value = f * raw[t, i, 2 * y + 1, 2 * x + 1, c] + s
                        most = most if value < most or np.isnan(most) else value
                        out[t, i, y, x, c] = np.float32(0.0) if most < 0 else most


@inlined
def _plain_gradient(
    raw: Array5, factor: Array2, shift: Array2, grad: Array5, of_raw: Array5, of_factor: Array2, of_shift: Array2
) -> None:
    tasks, n, height, width, channels = raw.shape
    total = np.empty((2, channels), np.float64)
    row = np.empty((2, channels), np.float32)
    zero = np.float32(0.0)
    for t in range(tasks):
        total[:] = 0.0
        for i in range(n):
            for y in range(height):
                row[:] = zero
                for x in range(width):
                    for c in range(channels):
                        z = raw[t, i, y, x, c]
                        d = grad[t, i, y, x, c] if factor[t, c] * z + shift[t, c] > 0 else zero
                        row[0, c] += d
                        row[1, c] += d * z
                    for c in range(channels):
                        on = factor[t, c] * raw[t, i, y, x, c] + shift[t, c] > 0
                        of_raw[t, i, y, x, c] = factor[t, c] * grad[t, i, y, x, c] if on else zero
                for c in range(channels):
                    total[0, c] += row[0, c]
                    total[1, c] += row[1, c]
        for c in range(channels):
            of_shift[t, c] = total[0, c]
            of_factor[t, c] = total[1, c]


@inlined
def _pooled_gradient(
    raw: Array5, factor: Array2, shift: Array2, grad: Array5, of_raw: Array5, of_factor: Array2, of_shift: Array2
) -> None:
    tasks, n, height, width, channels = raw.shape
    total = np.empty((2, channels), np.float64)
    row = np.empty((2, channels), np.float32)
    sent = np.empty((4, channels), np.float32)
    zero = np.float32(0.0)
    for t in range(tasks):
        total[:] = 0.0
        for i in range(n):
            for y in range(height // 2):
                row[:] = zero
                for x in range(width // 2):
                    for c in range(channels):
                        f, s = factor[t, c], shift[t, c]
                        v0 = f * raw[t, i, 2 * y, 2 * x, c] + s
                        v1 = f * raw[t, i, 2 * y, 2 * x + 1, c] + s
                        v2 = f * raw[t, i, 2 * y + 1, 2 * x, c] + s
                        v3 = f * raw[t, i, 2 * y + 1, 2 * x + 1, c] + s
                        most = max(v0, v1, v2, v3)
                        d = grad[t, i, y, x, c] if most > 0 else zero
                        sent[0, c] = d if v0 >= most else zero
                        sent[1, c] = d if v1 >= most and v0 < most else zero
                        sent[2, c] = d if v2 >= most and v0 < most and v1 < most else zero
                        sent[3, c] = d if v0 < most and v1 < most and v2 < most else zero
                        row[0, c] += d
                    for place in range(4):
                        yy, xx = 2 * y + place // 2, 2 * x + place % 2
                        for c in range(channels):
                            row[1, c] += sent[place, c] * raw[t, i, yy, xx, c]
                        for c in range(channels):
                            of_raw[t, i, yy, xx, c] = factor[t, c] * sent[place, c]
                for c in range(channels):
                    total[0, c] += row[0, c]
                    total[1, c] += row[1, c]
            for y in range(height):
                for x in range(width):
                    if y >= height // 2 * 2 or x >= width // 2 * 2:  # in no window
                        of_raw[t, i, y, x, :] = zero
        for c in range(channels):
            of_shift[t, c] = total[0, c]
            of_factor[t, c] = total[1, c]
