"""Convolutional blocks in few passes over memory: convolution, normalization, pooling and ReLU, differentiable once.

    y = w * x            p = maxpool(y)          out = relu(scale p + shift)
    scale = gain / sqrt(variance(y) + epsilon)   shift = bias - mean(y) scale

Pooling goes first, so that a quarter is left to be normalized: an increasing function may be taken after the maximum,
and where the gain is negative the filter is negated with it. All of it equals convolution, norm.py, max_pool2d and relu
in that order, up to rounding. Here it may be fast where norm.py must not: nothing is differentiated twice or mapped.
Moments are those of a batch (Ioffe and Szegedy, 2015, arXiv:1502.03167). Where a gain is exactly 0, its gradient is one
of several subgradients.

    pooled_blocks.py   blocks that pool: patches for the images, Winograd's way after them
    strided_block.py   the others: the library's fused operations
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.networks.pooled_blocks import PooledBlocks, pooled_blocks_with_moments
from kshot_models.networks.strided_block import StridedBlock, strided_block_with_moments

__all__ = ["BlockShape", "Layer", "blocks", "blocks_with_moments"]


class BlockShape(NamedTuple):
    """What does not change from call to call. Filters are 3x3, padding 1, pooling 2x2."""

    stride: int
    pool: bool
    epsilon: float


class Layer(NamedTuple):
    """The weights of a block."""

    weight: Tensor  # (outside, inside, 3, 3)
    gain: Tensor  # (outside,)
    bias: Tensor  # (outside,) of the normalization


Moments = tuple[Tensor, Tensor]  # mean and variance (outside,) of a convolution's output


def blocks(inputs: Tensor, layers: Sequence[Layer], shape: BlockShape) -> tuple[Tensor, list[Moments]]:
    """Blocks, each with the moments of its own batch, in which all examples count alike.

    Args:
        inputs: (n, inside, height, width).
        layers: one after the other.
        shape: of each; pooling goes with stride 1.

    Returns:
        features (n, outside, height', width'), and the moments of each block, which carry no gradient.
    """
    found: list[Tensor]
    if shape.pool:
        flat = (value for layer in layers for value in layer)
        features, *found = PooledBlocks.apply(shape.epsilon, inputs, *flat)  # type: ignore[no-untyped-call]  # torch's
    else:
        features, found = inputs, []
        for layer in layers:
            features, *own = StridedBlock.apply(features, *layer, shape.stride, shape.epsilon)  # type: ignore[no-untyped-call]  # torch's
            found += own
    return features, list(zip(found[::2], found[1::2], strict=True))


def blocks_with_moments(
    inputs: Tensor, layers: Sequence[Layer], moments: Sequence[Moments], shape: BlockShape
) -> Tensor:
    """Blocks with given moments: convolutions whose filters and bias have the norm in them."""
    folded = []
    for (weight, gain, bias), (mean, variance) in zip(layers, moments, strict=True):
        scale = gain * torch.rsqrt(variance + shape.epsilon)
        folded.append((weight * scale.view(-1, 1, 1, 1), torch.addcmul(bias, mean, scale, value=-1)))
    if shape.pool:
        return pooled_blocks_with_moments(inputs, folded)
    for filters, shift in folded:
        inputs = strided_block_with_moments(inputs, filters, shift, shape.stride)
    return inputs
