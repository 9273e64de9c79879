"""Normalization by the moments of each task's own examples, then 2x2 max-pooling where wanted, then ReLU.

    mu = sum a z    v = sum a (z - mu)^2    x = (z - mu) r    r = 1 / sqrt(v + epsilon)    y = gain x + bias
    out = relu(maxpool(y))

per task and channel, over examples and positions; a is the share of an example in the moments over the number of
positions, 0 for padding. With dy the gradient at y (that of `out` where a position was the largest and positive, else
0), S1 = sum dy and S2 = sum dy x, the first derivatives are

    dz = gain r (dy - a (S1 + x S2))    dgain = S2    dbias = S1

and with u, p, q the gradients at dz, dgain and dbias, U1 = sum a u, U2 = sum a u x, E = sum u dy - S1 U1 - S2 U2, the
second are

    d(dy)   = gain r (u - U1 - U2 x) + p x + q
    d(gain) = r E
    d(z)    = r (h - a (H1 + x H2)) - gain E r^2 a x,    h = p dy - gain r (U2 dy + S2 a u),  H1 = sum h,  H2 = sum h x

Each is two passes over the features: sums, then values. Third derivatives are refused. Moments are differentiable too,
once. References: Ioffe and Szegedy, 2015, arXiv:1502.03167, for the first; the second by hand, held by tests against
the primitives of norm.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot_models.batched import normalization_reference as reference
from kshot_models.batched.backend import kernels_for
from kshot_models.batched.folding import applied, mapped

__all__ = ["Features", "Pooling", "normalize_activate", "through_moments"]


class Pooling(NamedTuple):
    """What does not change from call to call."""

    pool: bool  # 2x2 max-pooling, which drops an odd last row or column
    epsilon: float


class Features(NamedTuple):
    """The tensors that a normalization starts from."""

    raw: Tensor  # z, (tasks, n, height, width, channels)
    gain: Tensor  # (tasks, channels)
    bias: Tensor  # (tasks, channels)
    share: Tensor  # (tasks, n), of the examples in the moments; each task's sum is 1, or 0 where it has no example


def normalize_activate(features: Features, shape: Pooling) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize, pool and cut off at 0.

    Args:
        features: what to normalize, and by whose moments.
        shape: whether to pool, and what is added to variances.

    Returns:
        out (tasks, n, height', width', channels), mean and variance (tasks, channels).
    """
    return _apply(_Normalize, *features, shape)


class _Normalize(torch.autograd.Function):
    """See normalize_activate."""

    @staticmethod
    def forward(raw: Tensor, gain: Tensor, bias: Tensor, share: Tensor, shape: Pooling) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = (kernels_for(raw) or reference).normalize(Features(raw, gain, bias, share), shape)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, shape = inputs
        _, mean, variance = output
        ctx.save_for_backward(*tensors, mean, variance)
        ctx.shape = shape
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None) -> Any:
        raw, gain, bias, share, mean, variance = ctx.saved_tensors
        grad_raw = grad_gain = grad_bias = None
        if grad is not None:
            # The moments are constants here: what second derivatives owe to them is in the formulas.
            moments = (mean.detach(), variance.detach())
            grad_raw, grad_gain, grad_bias = _apply(_Gradient, raw, gain, bias, share, *moments, grad, ctx.shape)
        through = through_moments(Features(raw, gain, bias, share), mean, grad_mean, grad_variance)
        if through is not None:
            grad_raw = through if grad_raw is None else grad_raw + through
        return grad_raw, grad_gain, grad_bias, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_Normalize.apply, info.batch_size, in_dims, arguments)


class _Gradient(torch.autograd.Function):
    """(raw, gain, bias, share, mean, variance, grad of out) -> the gradients of raw, gain and bias."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        *features, mean, variance, grad, shape = arguments
        compute = (kernels_for(grad) or reference).normalize_gradient
        results: tuple[Tensor, ...] = compute(Features(*features), (mean, variance), grad, shape)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, shape = inputs
        _, grad_gain, grad_bias = output
        ctx.save_for_backward(*tensors, grad_gain, grad_bias)
        ctx.shape = shape
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, change: Tensor | None, change_gain: Tensor | None, change_bias: Tensor | None) -> Any:
        *tensors, grad_gain, grad_bias = ctx.saved_tensors
        raw, gain = tensors[:2]
        changes = (
            torch.zeros_like(raw) if change is None else change,
            torch.zeros_like(gain) if change_gain is None else change_gain,
            torch.zeros_like(gain) if change_bias is None else change_bias,
        )
        of_raw, of_gain, of_grad = _apply(_SecondGradient, *tensors, grad_gain, grad_bias, *changes, ctx.shape)
        return of_raw, of_gain, None, None, None, None, of_grad, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_Gradient.apply, info.batch_size, in_dims, arguments)


class _SecondGradient(torch.autograd.Function):
    """What the gradients of _Gradient's results are for raw, gain and the gradient of out."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        *features, mean, variance, grad, grad_gain, grad_bias, change, change_gain, change_bias, shape = arguments
        compute = (kernels_for(grad) or reference).normalize_second_gradient
        results: tuple[Tensor, ...] = compute(
            Features(*features),
            (mean, variance),
            grad,
            (grad_gain, grad_bias),
            (change, change_gain, change_bias),
            shape,
        )
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        del ctx, grads
        raise NotImplementedError("a normalization of many tasks at once has no third derivative; map over norm.py's")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_SecondGradient.apply, info.batch_size, in_dims, arguments)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    results: tuple[Tensor, Tensor, Tensor] = applied(function, *arguments)
    return results


def through_moments(
    features: Features, mean: Tensor, grad_mean: Tensor | None, grad_variance: Tensor | None
) -> Tensor | None:
    """What the gradient of raw owes to the moments that were returned: a (d mean + 2 (z - mean) d variance)."""
    if grad_mean is None and grad_variance is None:
        return None
    raw = features.raw
    height, width = raw.shape[-3:-1]
    a = (features.share / (height * width))[..., None, None, None]
    total = raw.new_zeros(()) if grad_mean is None else grad_mean[:, None, None, None]
    if grad_variance is not None:
        total = total + 2 * (raw - mean[:, None, None, None]) * grad_variance[:, None, None, None]
    return (a * total).expand_as(raw)
