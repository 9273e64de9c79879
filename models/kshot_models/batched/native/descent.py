"""All inner steps of a gradient descent at once: blocks, a linear head under cross-entropy, and their new weights.

    (w, W) <- (w, W) - rates o d loss(head_W(blocks_w(images)), targets)

What `blocks.py` and `head.py` compute step by step: four calls for each, and little between them, as Python finds the
caches full of the kernels' numbers; or, where threads are idle that would help, what `team.py` does with them. A last
pass gives the moments under the new weights, which queries are normalized by.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native import team
from kshot_models.batched.native.blocks import (
    Sizes,
    address_of,
    moments_in,
    plan_of,
    point_to_gradients,
    point_to_values,
    run_back,
    run_forward,
)
from kshot_models.batched.native.calls import call
from kshot_models.batched.native.head import head_gradients
from kshot_models.batched.native.jit import Array1, Array2, Array5, Indices, Table, array, compiled, entry
from kshot_models.batched.native.readout import read_out, send_back
from kshot_models.batched.native.update import change_weights
from kshot_models.inner.transformation import Rates
from kshot_models.sharing import shared_out

__all__ = ["Classes", "Descended", "descend", "head_step", "rates_of", "update"]

_TEAMS = 4, 2  # how many threads may share a descent, the largest number first


class Descended(NamedTuple):
    """Where the steps led, in memory of its own."""

    params: list[Tensor]
    moments: list[Tensor]  # mean and variance (outside,) of each block at the end, one after the other; or none


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
    moments: bool = False,
) -> Descended:
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
        moments: whether those after the last step are wanted.
    """
    images, share = images.contiguous(), share.contiguous()
    plan, counts = plan_of(sizes), [each.numel() for each in params]
    weights, gradients, values = torch.empty(sum(counts)), torch.empty(sum(counts)), torch.empty(plan.size)
    found = [part.view(like.shape) for part, like in zip(torch.split_with_sizes(weights, counts), params, strict=True)]
    torch._foreach_copy_(found, list(params))
    by_step, by_weight = rates_of(rates, params)
    table = plan.table.copy()
    point_to_values(table, [each.data_ptr() for each in found[:-2]], values, sizes)
    point_to_gradients(table, gradients, sizes)
    parts = torch.split_with_sizes(gradients, counts)
    of_weight, of_bias = parts[-2].view(params[-2].shape), parts[-1]
    out = plan.out[-1]
    features, of_out = torch.empty(out[1], params[-2].shape[1]), torch.empty(out)
    head = array(features), array(found[-2]), array(found[-1]), classes.targets.contiguous().numpy()
    of_classes = array(classes.share), array(classes.present)
    of_head = array(of_weight), array(of_bias)
    update_given = array(weights), array(gradients), np.cumsum(counts), by_step, by_weight
    n, stride, pool, added = images.shape[1], sizes.stride, sizes.pool, np.float32(epsilon)
    for members in _TEAMS:
        if team.suits(sizes, members):
            shared = team.Shared.of(sizes, members, features.shape)
            of_team = array(images), array(share), pool, added, *head, *of_classes, array(shared.of_features)
            take_part = shared.part(table, *of_team, *of_head, mean, *update_given, moments)
            if shared_out(take_part, members):
                break
    else:
        members = 1
        last, grad = array(values[int(plan.places[-1, 1]) :][: of_out.numel()].view(out)), array(of_out)
        seen = address_of(images), address_of(share), n, stride, pool, added, last
        given = _entries(), table, *seen, *head, *of_classes, *of_head, mean, grad, *update_given, moments
        _take_steps(*given)
    # Copies: the moments lie among all that was kept for the way back, and would keep it.
    return Descended(found, [each.clone() for each in moments_in(values, sizes, members)] if moments else [])


def rates_of(rates: Sequence[Rates | None], params: Sequence[Tensor]) -> tuple[Array2, Array1]:
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


@lru_cache(maxsize=1)
def _entries() -> Indices:
    return np.array([entry(kernel) for kernel in (run_forward, head_step, run_back, update)])


@compiled
def _take_steps(
    entries: Indices,
    table: Table,
    images: int,
    share: int,
    n: int,
    stride: int,
    pool: bool,
    epsilon: np.float32,
    last: Array5,
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    in_loss: Array1,
    present: Array1,
    of_weight: Array2,
    of_bias: Array1,
    mean: bool,
    grad: Array5,
    weights: Array1,
    gradients: Array1,
    ends: Indices,
    by_step: Array2,
    by_weight: Array1,
    moments: bool,
) -> None:
    forward, head, back, change = entries
    of_blocks = (by_step[: 3 * len(table)] != 0).any()
    by_moments = n < 0  # never: a kernel takes a variable, not a constant
    steps = by_step.shape[1]
    for step in range(steps + moments):  # a last pass for the moments alone
        call(forward, (table, images, share, n, stride, pool, epsilon, by_moments))
        if step == steps:
            break
        of_head = of_weight, of_bias, mean, grad
        call(head, (last, features, weight, bias, targets, in_loss, present, *of_head))
        if of_blocks:
            call(back, (table, images, share, grad.ctypes.data, n, stride, pool, epsilon))
        call(change, (weights, gradients, ends, by_step, by_weight, step))


@compiled
def head_step(
    out: Array5,
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    share: Array1,
    present: Array1,
    of_weight: Array2,
    of_bias: Array1,
    mean: bool,
    of_out: Array5,
) -> None:
    """The features of a last block's output, the head's gradients, and the output's."""
    of_features = np.empty(features.shape, np.float32)
    read_out(out, mean, features)
    head_gradients(features, weight, bias, targets, share, present, of_features, of_weight, of_bias)
    send_back(of_features, mean, of_out)


@compiled
def update(weights: Array1, gradients: Array1, ends: Indices, by_step: Array2, by_weight: Array1, step: int) -> None:
    """The step of that number; see `change_weights`."""
    change_weights(weights, gradients, ends, by_step[:, step], by_weight, (0, 1, 0))
