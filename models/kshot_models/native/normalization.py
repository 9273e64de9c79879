"""Normalization, pooling and ReLU, and the derivatives of both orders: see batched/normalization.py for the formulas.

Each is two passes over the features, sums and then values. Sums run over an image row in single precision and over
rows in double. Where a window's largest value came from is found again in each pass: of equals, it is the first.

Inner loops go over channels and write to one array each: that is what compilers turn into vector instructions.
"""

from __future__ import annotations

import numpy as np

from kshot_models.native.jit import Array1, Array2, Array3, Array5, Sums, compiled, inlined
from kshot_models.native.scaling import scaled

__all__ = [
    "add_through_moments",
    "constants",
    "count_image",
    "find_moments",
    "gradient_of_tasks",
    "gradient_sums",
    "gradient_values",
    "moments_of",
    "normalize_tasks",
    "second_gradient",
    "second_gradient_of_tasks",
]


@compiled
def normalize_tasks(
    raw: Array5, gain: Array2, bias: Array2, share: Array2, epsilon: np.float32, pool: bool, out: Array5, found: Array3
) -> None:
    """Moments, factor and shift of each task, and what they make of its features."""
    find_moments(raw, gain, bias, share, epsilon, found)
    scaled(raw, found[2], found[3], pool, out)


@compiled
def gradient_of_tasks(
    raw: Array5,
    gain: Array2,
    bias: Array2,
    share: Array2,
    mean: Array2,
    variance: Array2,
    epsilon: np.float32,
    pool: bool,
    grad: Array5,
    of_raw: Array5,
    sums: Array3,
) -> None:
    """The gradients of raw, of gain and of bias."""
    by = constants(gain, bias, mean, variance, epsilon)
    gradient_sums(raw, by, grad, pool, sums)
    gradient_values(raw, by, share, grad, pool, sums, of_raw)


@compiled
def second_gradient_of_tasks(
    raw: Array5,
    gain: Array2,
    bias: Array2,
    share: Array2,
    mean: Array2,
    variance: Array2,
    epsilon: np.float32,
    pool: bool,
    grad: Array5,
    of_gain_before: Array2,
    of_bias_before: Array2,
    change: Array5,
    change_gain: Array2,
    change_bias: Array2,
    of_raw: Array5,
    of_gain: Array2,
    of_grad: Array5,
) -> None:
    """The gradients of raw, gain and `grad`, of what those of `gradient_of_tasks` change."""
    by = constants(gain, bias, mean, variance, epsilon)
    sums = np.empty((2, *gain.shape), np.float32)
    sums[0], sums[1] = of_gain_before, of_bias_before
    second_gradient(raw, by, share, grad, sums, change, change_gain, change_bias, pool, of_raw, of_gain, of_grad)


@inlined
def second_gradient(
    raw: Array5,
    by: Array3,
    share: Array2,
    grad: Array5,
    sums: Array3,
    change: Array5,
    change_gain: Array2,
    change_bias: Array2,
    pool: bool,
    of_raw: Array5,
    of_gain: Array2,
    of_grad: Array5,
) -> None:
    """What the gradient of raw, gain and bias is as a function of raw, gain and `grad`, differentiated."""
    totals, terms = np.empty((3, *of_gain.shape), np.float32), np.empty((5, *of_gain.shape), np.float32)
    if pool:
        _pooled_change_sums(raw, by, share, grad, change, totals)
    else:
        _plain_change_sums(raw, by, share, grad, change, totals)
    _second_terms(by, sums[0], sums[1], change_gain, change_bias, totals, terms, of_gain)
    if pool:
        _pooled_second(raw, by, share, grad, change, terms, of_raw, of_grad)
    else:
        _plain_second(raw, by, share, grad, change, terms, of_raw, of_grad)


@inlined
def constants(gain: Array2, bias: Array2, mean: Array2, variance: Array2, epsilon: np.float32) -> Array3:
    """What is known of channels, B0 ... B3 (tasks, channels): y = B0 z + B1 and x = B3 (z - B2)."""
    by = np.empty((4, *gain.shape), np.float32)
    for t in range(gain.shape[0]):
        for c in range(gain.shape[1]):
            inverse = np.float32(1.0) / np.sqrt(variance[t, c] + epsilon)
            by[0, t, c] = gain[t, c] * inverse
            by[1, t, c] = bias[t, c] - mean[t, c] * by[0, t, c]
            by[2, t, c] = mean[t, c]
            by[3, t, c] = inverse
    return by


@inlined
def find_moments(raw: Array5, gain: Array2, bias: Array2, share: Array2, epsilon: np.float32, found: Array3) -> None:
    """`found` is mean, variance, factor and shift."""
    tasks, n, _, _, channels = raw.shape
    for t in range(tasks):
        sums = np.zeros((3, channels), np.float64)
        for i in range(n):
            count_image(raw[t, i], share[t], i, sums)
        moments_of(sums, gain[t], bias[t], epsilon, found[:, t])


@inlined
def count_image(raw: Array3, share: Array1, i: int, sums: Sums) -> None:
    """Add the i-th image to the sums of one task: the first and second powers of differences from an origin, and that.

    Images come in order. The origin is some value of each channel: differences from it lose no digits.
    """
    height, width, channels = raw.shape
    a = np.float64(share[i]) / (height * width)
    if a == 0.0:
        return
    if not (share[:i] != 0).any():
        for c in range(channels):
            sums[2, c] = raw[height // 2, width // 2, c]
    row, origin = np.empty((2, channels), np.float32), np.empty(channels, np.float32)
    for c in range(channels):
        origin[c] = sums[2, c]
    for y in range(height):
        row[:] = np.float32(0.0)
        for x in range(width):
            for c in range(channels):
                d = raw[y, x, c] - origin[c]
                row[0, c] += d
                row[1, c] += d * d
        for c in range(channels):
            sums[0, c] += a * row[0, c]
            sums[1, c] += a * row[1, c]


@inlined
def moments_of(sums: Sums, gain: Array1, bias: Array1, epsilon: np.float32, found: Array2) -> None:
    """Mean, variance, factor and shift of one task; 0 and 0 where no example counts."""
    for c in range(sums.shape[1]):
        mean = np.float32(sums[2, c] + sums[0, c])
        spread = sums[1, c] - sums[0, c] * sums[0, c]
        variance = np.float32(0.0) if spread < 0.0 else np.float32(spread)
        found[0, c], found[1, c] = mean, variance
        found[2, c] = gain[c] / np.sqrt(variance + epsilon)
        found[3, c] = bias[c] - mean * found[2, c]


@inlined
def gradient_sums(raw: Array5, by: Array3, grad: Array5, pool: bool, sums: Array3) -> None:
    """The gradients of gain and bias, which are S2 and S1."""
    if pool:
        _pooled_sums(raw, by, grad, sums[0], sums[1])
    else:
        _plain_sums(raw, by, grad, sums[0], sums[1])


@inlined
def gradient_values(
    raw: Array5, by: Array3, share: Array2, grad: Array5, pool: bool, sums: Array3, of_raw: Array5
) -> None:
    """The gradient of raw, by those sums."""
    if pool:
        _pooled_gradient(raw, by, share, grad, sums[0], sums[1], of_raw)
    else:
        _plain_gradient(raw, by, share, grad, sums[0], sums[1], of_raw)


@inlined
def add_through_moments(
    raw: Array5, share: Array2, mean: Array2, of_mean: Array2, of_variance: Array2, of_raw: Array5
) -> None:
    """Add what the gradient of raw owes to the moments: a (d mean + 2 (z - mean) d variance)."""
    tasks, n, height, width, channels = raw.shape
    for t in range(tasks):
        for i in range(n):
            a = np.float32(share[t, i] / (height * width))
            for y in range(height):
                for x in range(width):
                    for c in range(channels):
                        z = np.float32(2.0) * (raw[t, i, y, x, c] - mean[t, c])
                        of_raw[t, i, y, x, c] += a * (of_mean[t, c] + z * of_variance[t, c])


@inlined
def _plain_sums(raw: Array5, by: Array3, grad: Array5, of_gain: Array2, of_bias: Array2) -> None:
    """S2 and S1."""
    tasks, n, height, width, channels = raw.shape
    total = np.empty((2, channels), np.float64)
    row = np.empty((2, channels), np.float32)
    for t in range(tasks):
        total[:] = 0.0
        for i in range(n):
            for y in range(height):
                row[:] = np.float32(0.0)
                for x in range(width):
                    for c in range(channels):
                        z = raw[t, i, y, x, c]
                        d = grad[t, i, y, x, c] if by[0, t, c] * z + by[1, t, c] > 0 else np.float32(0.0)
                        row[0, c] += d
                        row[1, c] += d * (z - by[2, t, c])
                for c in range(channels):
                    total[0, c] += row[0, c]
                    total[1, c] += row[1, c]
        for c in range(channels):
            of_bias[t, c] = total[0, c]
            of_gain[t, c] = total[1, c] * by[3, t, c]


@inlined
def _pooled_sums(raw: Array5, by: Array3, grad: Array5, of_gain: Array2, of_bias: Array2) -> None:
    tasks, n, height, width, channels = raw.shape
    total = np.empty((2, channels), np.float64)
    row = np.empty((2, channels), np.float32)
    for t in range(tasks):
        total[:] = 0.0
        for i in range(n):
            for y in range(height // 2):
                row[:] = np.float32(0.0)
                for x in range(width // 2):
                    for c in range(channels):
                        f, s = by[0, t, c], by[1, t, c]
                        z = raw[t, i, 2 * y, 2 * x, c]
                        most = f * z + s
                        other = raw[t, i, 2 * y, 2 * x + 1, c]
                        value = f * other + s
                        z = other if value > most else z
                        most = value if value > most else most
                        other = raw[t, i, 2 * y + 1, 2 * x, c]
                        value = f * other + s
                        z = other if value > most else z
                        most = value if value > most else most
                        other = raw[t, i, 2 * y + 1, 2 * x + 1, c]
                        value = f * other + s
                        z = other if value > most else z
                        most = value if value > most else most
                        d = grad[t, i, y, x, c] if most > 0 else np.float32(0.0)
                        row[0, c] += d
                        row[1, c] += d * (z - by[2, t, c])
                for c in range(channels):
                    total[0, c] += row[0, c]
                    total[1, c] += row[1, c]
        for c in range(channels):
            of_bias[t, c] = total[0, c]
            of_gain[t, c] = total[1, c] * by[3, t, c]


@inlined
def _plain_gradient(
    raw: Array5, by: Array3, share: Array2, grad: Array5, of_gain: Array2, of_bias: Array2, of_raw: Array5
) -> None:
    tasks, n, height, width, channels = raw.shape
    less = np.empty((2, channels), np.float32)
    for t in range(tasks):
        for i in range(n):
            a = np.float32(share[t, i] / (height * width))
            for c in range(channels):
                less[0, c] = a * by[0, t, c] * of_bias[t, c]
                less[1, c] = a * by[0, t, c] * of_gain[t, c] * by[3, t, c]
            for y in range(height):
                for x in range(width):
                    for c in range(channels):
                        z = raw[t, i, y, x, c]
                        d = grad[t, i, y, x, c] if by[0, t, c] * z + by[1, t, c] > 0 else np.float32(0.0)
                        of_raw[t, i, y, x, c] = by[0, t, c] * d - less[0, c] - less[1, c] * (z - by[2, t, c])


@inlined
def _pooled_gradient(
    raw: Array5, by: Array3, share: Array2, grad: Array5, of_gain: Array2, of_bias: Array2, of_raw: Array5
) -> None:
    tasks, n, height, width, channels = raw.shape
    less = np.empty((2, channels), np.float32)
    sent = np.empty((4, channels), np.float32)
    zero = np.float32(0.0)
    for t in range(tasks):
        for i in range(n):
            a = np.float32(share[t, i] / (height * width))
            for c in range(channels):
                less[0, c] = a * by[0, t, c] * of_bias[t, c]
                less[1, c] = a * by[0, t, c] * of_gain[t, c] * by[3, t, c]
            for y in range(height // 2):
                for x in range(width // 2):
                    for c in range(channels):
                        f, s = by[0, t, c], by[1, t, c]
                        v0 = f * raw[t, i, 2 * y, 2 * x, c] + s
                        v1 = f * raw[t, i, 2 * y, 2 * x + 1, c] + s
                        v2 = f * raw[t, i, 2 * y + 1, 2 * x, c] + s
                        v3 = f * raw[t, i, 2 * y + 1, 2 * x + 1, c] + s
                        most = max(v0, v1, v2, v3)
                        d = f * grad[t, i, y, x, c] if most > 0 else zero
                        sent[0, c] = d if v0 >= most else zero
                        sent[1, c] = d if v1 >= most and v0 < most else zero
                        sent[2, c] = d if v2 >= most and v0 < most and v1 < most else zero
                        sent[3, c] = d if v0 < most and v1 < most and v2 < most else zero
                    for place in range(4):
                        yy, xx = 2 * y + place // 2, 2 * x + place % 2
                        for c in range(channels):
                            z = raw[t, i, yy, xx, c] - by[2, t, c]
                            of_raw[t, i, yy, xx, c] = sent[place, c] - less[0, c] - less[1, c] * z
            for y in range(height):
                for x in range(width):
                    if y >= height // 2 * 2 or x >= width // 2 * 2:  # in no window
                        for c in range(channels):
                            of_raw[t, i, y, x, c] = -less[0, c] - less[1, c] * (raw[t, i, y, x, c] - by[2, t, c])


@inlined
def _plain_change_sums(raw: Array5, by: Array3, share: Array2, grad: Array5, change: Array5, totals: Array3) -> None:
    """U1, U2 and sum u dy."""
    tasks, n, height, width, channels = raw.shape
    total = np.empty((3, channels), np.float64)
    row = np.empty((3, channels), np.float32)
    for t in range(tasks):
        total[:] = 0.0
        for i in range(n):
            a = np.float64(share[t, i]) / (height * width)
            for y in range(height):
                row[:] = np.float32(0.0)
                for x in range(width):
                    for c in range(channels):
                        z, u = raw[t, i, y, x, c], change[t, i, y, x, c]
                        d = grad[t, i, y, x, c] if by[0, t, c] * z + by[1, t, c] > 0 else np.float32(0.0)
                        row[0, c] += u
                        row[1, c] += u * (z - by[2, t, c])
                        row[2, c] += u * d
                for c in range(channels):
                    total[0, c] += a * row[0, c]
                    total[1, c] += a * row[1, c]
                    total[2, c] += row[2, c]
        for c in range(channels):
            totals[0, t, c] = total[0, c]
            totals[1, t, c] = total[1, c] * by[3, t, c]
            totals[2, t, c] = total[2, c]


@inlined
def _pooled_change_sums(raw: Array5, by: Array3, share: Array2, grad: Array5, change: Array5, totals: Array3) -> None:
    tasks, n, height, width, channels = raw.shape
    total = np.empty((3, channels), np.float64)
    row = np.empty((3, channels), np.float32)
    zero = np.float32(0.0)
    for t in range(tasks):
        total[:] = 0.0
        for i in range(n):
            a = np.float64(share[t, i]) / (height * width)
            for y in range(height):
                row[:] = zero
                for x in range(width):
                    for c in range(channels):
                        u = change[t, i, y, x, c]
                        row[0, c] += u
                        row[1, c] += u * (raw[t, i, y, x, c] - by[2, t, c])
                if y % 2 == 0 and y + 1 < height:
                    for x in range(width // 2):
                        for c in range(channels):
                            f, s = by[0, t, c], by[1, t, c]
                            most = f * raw[t, i, y, 2 * x, c] + s
                            u = change[t, i, y, 2 * x, c]
                            value, other = f * raw[t, i, y, 2 * x + 1, c] + s, change[t, i, y, 2 * x + 1, c]
                            u = other if value > most else u
                            most = value if value > most else most
                            value, other = f * raw[t, i, y + 1, 2 * x, c] + s, change[t, i, y + 1, 2 * x, c]
                            u = other if value > most else u
                            most = value if value > most else most
                            value, other = f * raw[t, i, y + 1, 2 * x + 1, c] + s, change[t, i, y + 1, 2 * x + 1, c]
                            u = other if value > most else u
                            most = value if value > most else most
                            row[2, c] += u * grad[t, i, y // 2, x, c] if most > 0 else zero
                for c in range(channels):
                    total[0, c] += a * row[0, c]
                    total[1, c] += a * row[1, c]
                    total[2, c] += row[2, c]
        for c in range(channels):
            totals[0, t, c] = total[0, c]
            totals[1, t, c] = total[1, c] * by[3, t, c]
            totals[2, t, c] = total[2, c]


@inlined
def _second_terms(
    by: Array3, s2: Array2, s1: Array2, p: Array2, q: Array2, totals: Array3, terms: Array3, of_gain: Array2
) -> None:
    """The terms of the second derivatives, by task and channel.

    d(z)  = T0 dy + a (T1 u + T2 + T3 (z - mean))      d(dy) = B0 u + T4 + T0 (z - mean)
    """
    for t in range(s1.shape[0]):
        for c in range(s1.shape[1]):
            scale, r = by[0, t, c], by[3, t, c]
            u1, u2 = totals[0, t, c], totals[1, t, c]
            e = totals[2, t, c] - s1[t, c] * u1 - s2[t, c] * u2
            h1 = p[t, c] * s1[t, c] - scale * (u2 * s1[t, c] + s2[t, c] * u1)
            h2 = p[t, c] * s2[t, c] - np.float32(2.0) * scale * u2 * s2[t, c]
            of_gain[t, c] = r * e
            terms[0, t, c] = r * (p[t, c] - scale * u2)
            terms[1, t, c] = -r * scale * s2[t, c]
            terms[2, t, c] = -r * h1
            terms[3, t, c] = -r * r * (h2 + scale * e)
            terms[4, t, c] = q[t, c] - scale * u1


@inlined
def _plain_second(
    raw: Array5, by: Array3, share: Array2, grad: Array5, change: Array5, terms: Array3, of_raw: Array5, of_grad: Array5
) -> None:
    tasks, n, height, width, channels = raw.shape
    own = np.empty((3, channels), np.float32)
    zero = np.float32(0.0)
    for t in range(tasks):
        for i in range(n):
            a = np.float32(share[t, i] / (height * width))
            for c in range(channels):
                own[0, c] = a * terms[1, t, c]
                own[1, c] = a * terms[2, t, c]
                own[2, c] = a * terms[3, t, c]
            for y in range(height):
                for x in range(width):
                    for c in range(channels):
                        z, u = raw[t, i, y, x, c], change[t, i, y, x, c]
                        d = grad[t, i, y, x, c] if by[0, t, c] * z + by[1, t, c] > 0 else zero
                        z -= by[2, t, c]
                        of_raw[t, i, y, x, c] = terms[0, t, c] * d + own[0, c] * u + own[1, c] + own[2, c] * z
                    for c in range(channels):
                        z, u = raw[t, i, y, x, c], change[t, i, y, x, c]
                        value = by[0, t, c] * u + terms[4, t, c] + terms[0, t, c] * (z - by[2, t, c])
                        of_grad[t, i, y, x, c] = value if by[0, t, c] * z + by[1, t, c] > 0 else zero


@inlined
def _pooled_second(
    raw: Array5, by: Array3, share: Array2, grad: Array5, change: Array5, terms: Array3, of_raw: Array5, of_grad: Array5
) -> None:
    tasks, n, height, width, channels = raw.shape
    own = np.empty((3, channels), np.float32)
    sent = np.empty((4, channels), np.float32)
    found = np.empty(channels, np.float32)  # of a window's largest value
    zero = np.float32(0.0)
    for t in range(tasks):
        for i in range(n):
            a = np.float32(share[t, i] / (height * width))
            for c in range(channels):
                own[0, c] = a * terms[1, t, c]
                own[1, c] = a * terms[2, t, c]
                own[2, c] = a * terms[3, t, c]
            for y in range(height // 2):
                for x in range(width // 2):
                    for c in range(channels):
                        f, s = by[0, t, c], by[1, t, c]
                        v0 = f * raw[t, i, 2 * y, 2 * x, c] + s
                        v1 = f * raw[t, i, 2 * y, 2 * x + 1, c] + s
                        v2 = f * raw[t, i, 2 * y + 1, 2 * x, c] + s
                        v3 = f * raw[t, i, 2 * y + 1, 2 * x + 1, c] + s
                        most = max(v0, v1, v2, v3)
                        d = np.float32(1.0) if most > 0 else zero
                        sent[0, c] = d if v0 >= most else zero
                        sent[1, c] = d if v1 >= most and v0 < most else zero
                        sent[2, c] = d if v2 >= most and v0 < most and v1 < most else zero
                        sent[3, c] = d if v0 < most and v1 < most and v2 < most else zero
                    found[:] = zero
                    for place in range(4):
                        yy, xx = 2 * y + place // 2, 2 * x + place % 2
                        for c in range(channels):
                            z, u = raw[t, i, yy, xx, c] - by[2, t, c], change[t, i, yy, xx, c]
                            d = sent[place, c] * grad[t, i, y, x, c]
                            of_raw[t, i, yy, xx, c] = terms[0, t, c] * d + own[0, c] * u + own[1, c] + own[2, c] * z
                        for c in range(channels):
                            z, u = raw[t, i, yy, xx, c] - by[2, t, c], change[t, i, yy, xx, c]
                            found[c] += sent[place, c] * (by[0, t, c] * u + terms[4, t, c] + terms[0, t, c] * z)
                    for c in range(channels):
                        of_grad[t, i, y, x, c] = found[c]
            for y in range(height):
                for x in range(width):
                    if y >= height // 2 * 2 or x >= width // 2 * 2:  # in no window
                        for c in range(channels):
                            z, u = raw[t, i, y, x, c] - by[2, t, c], change[t, i, y, x, c]
                            of_raw[t, i, y, x, c] = own[0, c] * u + own[1, c] + own[2, c] * z
