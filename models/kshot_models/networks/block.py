"""A convolutional block in few passes over memory: convolution, normalization, pooling and ReLU, differentiable once.

    y = w * x            p = maxpool(y)            out = relu(scale p + shift)
    scale = gain / sqrt(variance(y) + epsilon)     shift = bias - mean(y) scale

Pooling goes first, so that a quarter is left to be normalized: an increasing function may be taken after the maximum,
and where the gain is negative the filter is negated with it. All of it equals convolution, norm.py, max_pool2d and relu
in that order, up to rounding. The library's fused operations do it, where norm.py must not use them: their second
derivatives are wrong under vmap, and here there are none. Moments are those of a batch (Ioffe and Szegedy, 2015,
arXiv:1502.03167).
Channels-last tensors make it fast. Where a gain is exactly 0, its gradient is one of several subgradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.serving import remembered

__all__ = ["BlockShape", "block", "block_with_moments"]

_aten = torch.ops.aten
_PAIR = (2, 2)
_NARROW = 4  # input channels up to which patches times filters beat the library's convolution


class BlockShape(NamedTuple):
    """What does not change from call to call. Filters are 3x3, padding 1, pooling 2x2."""

    stride: int
    pool: bool
    epsilon: float


def block(
    inputs: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, shape: BlockShape
) -> tuple[Tensor, Tensor, Tensor]:
    """The block with the moments of its own batch, in which all examples count alike.

    Args:
        inputs: (n, inside, height, width).
        weight: (outside, inside, 3, 3).
        gain: (outside,).
        bias: (outside,) of the normalization.
        shape: of the block.

    Returns:
        features (n, outside, height', width'), and mean and variance (outside,) of the convolution's output, which
        carry no gradient.
    """
    out, mean, variance = _Block.apply(inputs, weight, gain, bias, shape)  # type: ignore[no-untyped-call] # torch's own
    return out, mean, variance


def block_with_moments(
    inputs: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, moments: tuple[Tensor, Tensor], shape: BlockShape
) -> Tensor:
    """The block with given moments (mean, variance): a convolution whose filters and bias have the norm in them."""
    mean, variance = moments
    scale = gain * torch.rsqrt(variance + shape.epsilon)
    filters, shift = weight * scale.view(-1, 1, 1, 1), torch.addcmul(bias, mean, scale, value=-1)
    if inputs.shape[1] <= _NARROW:
        raw = _filtered(_patches(inputs, shape.stride), inputs, filters, shape.stride)
        raw = raw.add_(_spread(shift))
    else:
        raw = F.conv2d(inputs, filters, shift, stride=shape.stride, padding=1)
    return F.relu(F.max_pool2d(raw, 2) if shape.pool else raw, inplace=True)


class _Block(torch.autograd.Function):
    """See `block`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, shape: BlockShape
    ) -> tuple[Tensor, Tensor, Tensor]:
        rises = gain.min().item() > 0
        sign = None if rises else torch.copysign(torch.ones_like(gain), gain)
        filters, size = (weight, gain) if sign is None else (weight * sign.view(-1, 1, 1, 1), gain.abs())
        patches = None
        if inputs.shape[1] <= _NARROW:
            patches = _patches(inputs, shape.stride)
            raw = _filtered(patches, inputs, filters, shape.stride)
        else:
            raw = F.conv2d(inputs, filters, None, stride=shape.stride, padding=1)
        mean, variance = torch.batch_norm_update_stats(raw, None, None, 0.0)
        picked, places = _aten.max_pool2d_with_indices(raw, _PAIR, _PAIR) if shape.pool else (raw, None)
        out, _, _ = _aten.native_batch_norm(
            picked, size, bias, mean, variance, training=False, momentum=0.0, eps=shape.epsilon
        )
        out.relu_()
        ctx.save_for_backward(inputs, patches, filters, raw, places, out, sign, size, mean, variance)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        mean = mean if sign is None else mean * sign
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_moments: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None, None
        inputs, patches, filters, raw, places, out, sign, size, mean, variance = ctx.saved_tensors
        wants_inputs, wants_weight, *_ = ctx.needs_input_grad
        grad = _aten.threshold_backward(grad, out, 0)
        if places is not None:
            grad = _aten.max_pool2d_with_indices_backward(
                grad, raw, _PAIR, _PAIR, (0, 0), (1, 1), ceil_mode=False, indices=places
            )
        unit = torch.rsqrt(variance + ctx.shape.epsilon)
        grad, grad_gain, grad_bias = _aten.native_batch_norm_backward(
            grad, raw, size, None, None, mean, unit, train=True, eps=ctx.shape.epsilon, output_mask=(True, True, True)
        )
        grad_inputs = grad_weight = None
        if patches is not None and wants_weight:
            grad_weight = _filters_of(patches @ _rows(grad), inputs.shape[1])
            wants_weight = False
        if wants_inputs or wants_weight:
            geometry = {"stride": (ctx.shape.stride,) * 2, "padding": (1, 1), "dilation": (1, 1), "groups": 1}
            grad_inputs, found, _ = _aten.convolution_backward(
                grad,
                inputs,
                filters,
                None,
                **geometry,
                transposed=False,
                output_padding=(0, 0),
                output_mask=(wants_inputs, wants_weight, False),
            )
            grad_weight = found if wants_weight else grad_weight
        if sign is not None:
            grad_gain = grad_gain * sign
            grad_weight = None if grad_weight is None else grad_weight * sign.view(-1, 1, 1, 1)
        return grad_inputs, grad_weight, grad_gain, grad_bias, None


# A convolution of few channels is a product of small matrices, and not what convolution libraries are made for. With
# patches as columns, its output comes out channels-last, and its patches serve the backward pass again.


def _patches(inputs: Tensor, stride: int) -> Tensor:
    """The 3x3 surroundings of each position, padded with 0: (9 inside, n height' width')."""
    return remembered(inputs, stride, lambda: _fresh_patches(inputs, stride))


def _fresh_patches(inputs: Tensor, stride: int) -> Tensor:
    windows = F.pad(inputs, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride)  # (n, inside, h', w', 3, 3)
    return windows.permute(4, 5, 1, 0, 2, 3).reshape(9 * inputs.shape[1], -1)


def _filtered(patches: Tensor, inputs: Tensor, filters: Tensor, stride: int) -> Tensor:
    """The convolution: (n, outside, height', width'), channels-last."""
    outside, n = len(filters), len(inputs)
    height, width = (-(-size // stride) for size in inputs.shape[2:])
    rows = patches.T @ filters.permute(2, 3, 1, 0).reshape(-1, outside)
    return rows.view(n, height, width, outside).permute(0, 3, 1, 2)


def _rows(raw: Tensor) -> Tensor:
    """(n, outside, height', width') -> (n height' width', outside)."""
    return raw.permute(0, 2, 3, 1).reshape(-1, raw.shape[1])


def _filters_of(product: Tensor, inside: int) -> Tensor:
    """(9 inside, outside) -> (outside, inside, 3, 3)."""
    return product.view(3, 3, inside, -1).permute(3, 2, 0, 1)


def _spread(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
