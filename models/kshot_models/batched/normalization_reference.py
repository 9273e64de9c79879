"""What the kernels of normalization.py and scaling.py compute, in torch's own operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

if TYPE_CHECKING:
    from kshot_models.batched.normalization import Features, Pooling

__all__ = ["normalize", "normalize_gradient", "normalize_second_gradient", "scale", "scale_gradient"]

_EXAMPLES = (1, 2, 3)  # and positions: all axes but tasks and channels


def normalize(features: Features, shape: Pooling) -> tuple[Tensor, Tensor, Tensor]:
    """out, mean and variance."""
    raw, gain, bias, _ = features
    a = _share(features)
    mean = (a * raw).sum(_EXAMPLES)
    variance = (a * (raw - _wide(mean)).square()).sum(_EXAMPLES)
    unit = (raw - _wide(mean)) * _wide(torch.rsqrt(variance + shape.epsilon))
    return _activate(unit * _wide(gain) + _wide(bias), pool=shape.pool), mean, variance


def normalize_gradient(
    features: Features, moments: tuple[Tensor, Tensor], grad: Tensor, shape: Pooling
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of raw, gain and bias."""
    unit, slope, inverse = _unit(features, moments, shape)
    dy = _spread(slope, grad, pool=shape.pool)
    total, weighted = dy.sum(_EXAMPLES), (dy * unit).sum(_EXAMPLES)
    inner = dy - _share(features) * (_wide(total) + unit * _wide(weighted))
    return _wide(features.gain * inverse) * inner, weighted, total


def normalize_second_gradient(
    features: Features,
    moments: tuple[Tensor, Tensor],
    grad: Tensor,
    sums: tuple[Tensor, Tensor],
    changes: tuple[Tensor, Tensor, Tensor],
    shape: Pooling,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of raw, gain and `grad`; see normalization.py for the names."""
    unit, slope, r = _unit(features, moments, shape)
    dy, a = _spread(slope, grad, pool=shape.pool), _share(features)
    (s2, s1), (u, p, q) = sums, changes
    u1, u2 = (a * u).sum(_EXAMPLES), (a * u * unit).sum(_EXAMPLES)
    e = (u * dy).sum(_EXAMPLES) - s1 * u1 - s2 * u2
    scale = features.gain * r
    h = _wide(p) * dy - _wide(scale) * (_wide(u2) * dy + _wide(s2) * a * u)
    h1 = p * s1 - scale * (u2 * s1 + s2 * u1)
    h2 = p * s2 - 2 * scale * u2 * s2
    of_raw = _wide(r) * (h - a * (_wide(h1) + unit * _wide(h2))) - _wide(features.gain * e * r.square()) * a * unit
    of_dy = _wide(scale) * (u - _wide(u1) - _wide(u2) * unit) + _wide(p) * unit + _wide(q)
    return of_raw, r * e, _gathered(slope * of_dy, pool=shape.pool)


def scale(raw: Tensor, factor: Tensor, shift: Tensor, *, pool: bool) -> Tensor:
    """relu(maxpool(factor raw + shift))."""
    return _activate(raw * _wide(factor) + _wide(shift), pool=pool)


def scale_gradient(
    raw: Tensor, factor: Tensor, shift: Tensor, grad: Tensor, *, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of raw, factor and shift."""
    dy = _spread(_slope(raw * _wide(factor) + _wide(shift), pool=pool), grad, pool=pool)
    return dy * _wide(factor), (dy * raw).sum(_EXAMPLES), dy.sum(_EXAMPLES)


def _unit(features: Features, moments: tuple[Tensor, Tensor], shape: Pooling) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized features, the slope of `out` in them before the gain, and 1 / sqrt(variance + epsilon)."""
    mean, variance = moments
    inverse = torch.rsqrt(variance + shape.epsilon)
    unit = (features.raw - _wide(mean)) * _wide(inverse)
    return unit, _slope(unit * _wide(features.gain) + _wide(features.bias), pool=shape.pool), inverse


def _share(features: Features) -> Tensor:
    height, width = features.raw.shape[2:4]
    return (features.share / (height * width))[..., None, None, None]


def _wide(values: Tensor) -> Tensor:
    """(tasks, channels) -> (tasks, 1, 1, 1, channels)."""
    return values[:, None, None, None]


def _activate(y: Tensor, *, pool: bool) -> Tensor:
    if not pool:
        return F.relu(y)
    pooled = F.max_pool2d(y.flatten(0, 1).movedim(-1, 1), 2)
    return F.relu(_by_task(pooled, y))


def _slope(y: Tensor, *, pool: bool) -> Tensor:
    """1 where a position is what `out` is made of and is positive, else 0; shaped like `y`."""
    if not pool:
        return (y > 0).to(y.dtype)
    flat = y.flatten(0, 1).movedim(-1, 1)  # (tasks * n, channels, height, width)
    largest, places = F.max_pool2d(flat, 2, return_indices=True)
    picked = torch.zeros_like(flat).flatten(2).scatter_(2, places.flatten(2), (largest > 0).to(y.dtype).flatten(2))
    return _by_task(picked.view_as(flat), y)


def _spread(slope: Tensor, grad: Tensor, *, pool: bool) -> Tensor:
    """The gradient at y: that of `out` at the places of its positions."""
    if not pool:
        return slope * grad
    wide = grad.repeat_interleave(2, 2).repeat_interleave(2, 3)
    odd = (slope.shape[3] - wide.shape[3], slope.shape[2] - wide.shape[2])
    return slope * F.pad(wide, (0, 0, 0, odd[0], 0, odd[1]))


def _gathered(values: Tensor, *, pool: bool) -> Tensor:
    """The sum over each window of four: the transpose of `_spread`'s widening."""
    if not pool:
        return values
    height, width = values.shape[2] // 2, values.shape[3] // 2
    even = values[:, :, : 2 * height, : 2 * width]
    return even.reshape(*values.shape[:2], height, 2, width, 2, -1).sum((3, 5))


def _by_task(values: Tensor, like: Tensor) -> Tensor:
    """(tasks * n, channels, height, width) -> (tasks, n, height, width, channels)."""
    last = values.movedim(1, -1)
    return last.reshape(*like.shape[:2], *last.shape[1:])
