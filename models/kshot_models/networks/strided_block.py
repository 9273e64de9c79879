"""A block without pooling, of the library's fused operations; block.py says what it equals.

norm.py must not use them: their second derivatives are wrong under vmap, and here there are none. Channels-last tensors
make it fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.serving import remembered

__all__ = ["StridedBlock", "strided_block_with_moments"]

_aten = torch.ops.aten
_NARROW = 4  # input channels up to which patches times filters beat the library's convolution


def strided_block_with_moments(inputs: Tensor, filters: Tensor, shift: Tensor, stride: int) -> Tensor:
    """The block of a convolution whose filters and bias have the norm in them."""
    if inputs.shape[1] <= _NARROW:
        raw = _filtered(_patches(inputs, stride), inputs, filters, stride).add_(shift.view(1, -1, 1, 1))
    else:
        raw = F.conv2d(inputs, filters, shift, stride=stride, padding=1)
    return F.relu(raw, inplace=True)


class StridedBlock(torch.autograd.Function):
    """(inputs, weight, gain, bias, stride, epsilon) -> features, mean, variance; see `block.block`."""

    @staticmethod
    def forward(  # noqa: D102 - autograd's name
        ctx: Any, inputs: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, stride: int, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rises = gain.min().item() > 0
        sign = None if rises else torch.copysign(torch.ones_like(gain), gain)
        filters, size = (weight, gain) if sign is None else (weight * sign.view(-1, 1, 1, 1), gain.abs())
        patches = None
        if inputs.shape[1] <= _NARROW:
            patches = _patches(inputs, stride)
            raw = _filtered(patches, inputs, filters, stride)
        else:
            raw = F.conv2d(inputs, filters, None, stride=stride, padding=1)
        mean, variance = torch.batch_norm_update_stats(raw, None, None, 0.0)
        out, _, _ = _aten.native_batch_norm(raw, size, bias, mean, variance, training=False, momentum=0.0, eps=epsilon)
        out.relu_()
        ctx.save_for_backward(inputs, patches, filters, raw, out, sign, size, mean, variance)
        ctx.stride, ctx.epsilon = stride, epsilon
        ctx.set_materialize_grads(False)
        mean = mean if sign is None else mean * sign
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_moments: None) -> tuple[Tensor | None, ...]:  # noqa: D102 - the same
        if grad is None:
            return None, None, None, None, None, None
        inputs, patches, filters, raw, out, sign, size, mean, variance = ctx.saved_tensors
        wants_inputs, wants_weight, *_ = ctx.needs_input_grad
        grad = _aten.threshold_backward(grad, out, 0)
        unit = torch.rsqrt(variance + ctx.epsilon)
        grad, grad_gain, grad_bias = _aten.native_batch_norm_backward(
            grad, raw, size, None, None, mean, unit, train=True, eps=ctx.epsilon, output_mask=(True, True, True)
        )
        grad_inputs = grad_weight = None
        if patches is not None and wants_weight:
            grad_weight = _filters_of(patches @ _rows(grad), inputs.shape[1])
            wants_weight = False
        if wants_inputs or wants_weight:
            geometry = {"stride": (ctx.stride,) * 2, "padding": (1, 1), "dilation": (1, 1), "groups": 1}
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
        return grad_inputs, grad_weight, grad_gain, grad_bias, None, None


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
