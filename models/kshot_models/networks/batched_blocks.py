"""Conv4's blocks by operations that have an axis of tasks: what networks are made of under vmap on a GPU.

    images ──> [ convolve ──> normalize_activate, or scale_activate by given moments ] x blocks ──> features

One task is an axis of length 1; vmap makes it as long as there are tasks (batched/folding.py). The same numbers as
convolution, norm.py, max_pool2d and relu in that order, up to rounding, with first and second derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.batched import Features, Pooling, convolve, normalize_activate, scale_activate
from kshot_models.networks.block import BlockShape
from kshot_models.norm import NormPass
from kshot_models.types import Params

__all__ = ["batched_blocks"]


def batched_blocks(params: Params, inputs: Tensor, norms: NormPass, count: int, shape: BlockShape) -> Tensor:
    """Run the blocks.

    Args:
        params: `convI.weight` (outside, inside, 3, 3), `normI.gain` and `normI.bias` (outside,), for I from 1.
        inputs: (n, channels, height, width).
        norms: of this pass, by moments of examples; what it uses is recorded in it.
        count: of blocks.
        shape: of the blocks.

    Returns:
        (n, outside, height', width') of the last block.
    """
    features = inputs.movedim(-3, -1)[None]  # (1, n, height, width, channels)
    share = norms.share(inputs)[None]
    for i in range(1, count + 1):
        filters = params[f"conv{i}.weight"].permute(0, 2, 3, 1).flatten(1)[None]
        gain, bias = params[f"norm{i}.gain"][None], params[f"norm{i}.bias"][None]
        raw = convolve(features, filters, stride=shape.stride)
        if (given := norms.moments(f"norm{i}")) is not None:
            mean, variance = given
            factor = gain * torch.rsqrt(variance + shape.epsilon)
            features = scale_activate(raw, factor, bias - mean * factor, pool=shape.pool)
            norms.record(f"norm{i}", mean, variance)
        else:
            pooling = Pooling(shape.pool, shape.epsilon)
            features, mean, variance = normalize_activate(Features(raw, gain, bias, share), pooling)
            norms.record(f"norm{i}", mean[0], variance[0])
    return features[0].movedim(-1, -3)
