"""All inner steps of a gradient descent in one call: blocks, a linear head under cross-entropy, and their new weights.

    (w, W) <- (w, W) - rates o d loss(head_W(blocks_w(images)), targets)

What `blocks.py` and `head.py` compute step by step, with nothing of Python between the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.blocks import (
    Sizes,
    last_out,
    pass_back,
    pass_forward,
    plan_of,
    point_to_gradients,
    point_to_values,
)
from kshot_models.batched.native.head import head_gradients
from kshot_models.batched.native.jit import Array1, Array2, Array5, Indices, Table, array, compiled, inlined
from kshot_models.inner.transformation import Rates

__all__ = ["Classes", "descend"]


class Classes(NamedTuple):
    """What is to be learned."""

    targets: Tensor  # (n,) class indices
    share: Tensor  # (n,) of each example in the loss
    present: Tensor  # (way,) 0 for classes that have no probability


def descend(
    images: Tensor,
    share: Tensor,
    params: Sequence[Tensor],
    rates: Sequence[Rates | None],
    classes: Classes,
    sizes: Sizes,
    epsilon: float,
    *,
    mean: bool,
) -> list[Tensor]:
    """Take the steps.

    Args:
        images: (1, n, height, width, channels).
        share: (1, n), of each example in the moments.
        params: filters (outside, 3, 3, inside), gain and bias (outside,) of each block, one after the other; then the
            head's weight (way, features) and bias (way,). Features are in the order channels, height, width.
        rates: of each; None if it stays as it is.
        classes: the targets.
        sizes: of the blocks, which keep all.
        epsilon: added to variances.
        mean: the head has the mean over positions in place of all positions.

    Returns:
        the parameters after the last step, in memory of their own.
    """
    images, share = images.contiguous(), share.contiguous()
    plan, counts = plan_of(sizes), [each.numel() for each in params]
    weights, gradients, values = torch.empty(sum(counts)), torch.empty(sum(counts)), torch.empty(plan.size)
    found = [part.view(like.shape) for part, like in zip(torch.split_with_sizes(weights, counts), params, strict=True)]
    torch._foreach_copy_(found, list(params))
    by_step, by_weight = _gathered(rates, params)
    table = plan.table.copy()
    point_to_values(table, [each.data_ptr() for each in found[:-2]], values, sizes)
    point_to_gradients(table, gradients, sizes)
    ends = np.cumsum(counts)
    given = images.data_ptr(), share.data_ptr(), images.shape[1], sizes.stride, sizes.pool, np.float32(epsilon), mean
    _descend(
        table,
        *given,
        classes.targets.contiguous().numpy(),
        array(classes.share),
        array(classes.present),
        array(weights),
        array(gradients),
        ends,
        by_step,
        by_weight,
    )
    return found


def _gathered(rates: Sequence[Rates | None], params: Sequence[Tensor]) -> tuple[Array2, Array1]:
    """(parameters, steps), 0 of those that stay as they are, and the factors of all weights, if there are any."""
    steps = next((each.by_step for each in rates if each is not None), torch.zeros(0))
    by_step = torch.stack([torch.zeros_like(steps) if each is None else each.by_step for each in rates])
    if all(each is None or each.by_weight is None for each in rates):
        return array(by_step), np.empty(0, np.float32)
    parts = [
        torch.ones(like.numel())
        if each is None or each.by_weight is None
        else each.by_weight.expand(like.shape).flatten()
        for each, like in zip(rates, params, strict=True)
    ]
    return array(by_step), array(torch.cat(parts))


@compiled
def _descend(
    table: Table,
    images: int,
    share: int,
    n: int,
    stride: int,
    pool: bool,
    epsilon: np.float32,
    mean: bool,
    targets: Indices,
    loss_share: Array1,
    present: Array1,
    weights: Array1,
    gradients: Array1,
    ends: Indices,
    by_step: Array2,
    by_weight: Array1,
) -> None:
    last, way = len(ends) - 1, len(present)
    out = last_out(table, n, stride, pool)
    size = (ends[last - 1] - ends[last - 2]) // way
    start, middle = ends[last - 2], ends[last - 1]
    weight, bias = weights[start:middle].reshape(way, size), weights[middle:]
    of_weight, of_bias = gradients[start:middle].reshape(way, size), gradients[middle:]
    features, of_features = np.empty((n, size), np.float32), np.empty((n, size), np.float32)
    of_out = np.empty(out.shape, np.float32)
    of_blocks = (by_step[: last - 1] != 0).any()
    for step in range(by_step.shape[1]):
        pass_forward(table, images, share, n, stride, pool, epsilon, False)
        _read_out(out, mean, features)
        head_gradients(features, weight, bias, targets, loss_share, present, of_features, of_weight, of_bias)
        if of_blocks:
            _send_back(of_features, mean, of_out)
            pass_back(table, images, share, of_out.ctypes.data, n, stride, pool, epsilon)
        first = 0
        for number in range(len(ends)):
            rate = by_step[number, step]
            if rate != 0:
                if len(by_weight) > 0:
                    for i in range(first, ends[number]):
                        weights[i] -= rate * by_weight[i] * gradients[i]
                else:
                    for i in range(first, ends[number]):
                        weights[i] -= rate * gradients[i]
            first = ends[number]


@inlined
def _read_out(out: Array5, mean: bool, features: Array2) -> None:
    _, n, height, width, channels = out.shape
    if mean:
        features[:] = np.float32(0.0)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    if mean:
                        features[i, c] += out[0, i, y, x, c] / np.float32(height * width)
                    else:
                        features[i, (c * height + y) * width + x] = out[0, i, y, x, c]


@inlined
def _send_back(of_features: Array2, mean: bool, of_out: Array5) -> None:
    _, n, height, width, channels = of_out.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    if mean:
                        of_out[0, i, y, x, c] = of_features[i, c] / np.float32(height * width)
                    else:
                        of_out[0, i, y, x, c] = of_features[i, (c * height + y) * width + x]
