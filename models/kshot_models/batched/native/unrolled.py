"""Inner steps of gradient descent of which derivatives are wanted: what each step saw is kept, and gone back through.

    descend     W_{k+1} = W_k - r_k o g(W_k)                                                     for k = 0 ... K - 1
    go back     u = -r_k o l_{k+1}      of r_k: -g(W_k) o l_{k+1}      l_k = l_{k+1} + g'(W_k)^T u      k = K - 1 ... 0

W are the weights of the blocks and of a linear head under cross-entropy, g the gradient of the loss, r the rates and l
the derivatives by W of whatever follows. Kept are the weights, gradients and features of each step. g'(W)^T u is what
again.py computes. The numbers of the steps are those of descent.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native import blocks
from kshot_models.batched.native.again import back_again
from kshot_models.batched.native.blocks import Extra, Passed, Run
from kshot_models.batched.native.tensors import array
from kshot_models.native.blocks import Sizes
from kshot_models.native.descent import Classes, factors_of, head_step, rates_by_step, update
from kshot_models.native.head import head_second_gradients
from kshot_models.native.jit import Array1, Array2, Array5, Indices, compiled
from kshot_models.native.readout import read_out, send_back

__all__ = ["Descended", "Gradients", "Trail", "descend_and_keep", "go_back", "split_like"]


class Descended(NamedTuple):
    """Where the steps led."""

    params: list[Tensor]
    moments: list[Tensor]  # mean and variance (outside,) of each block at the end, one after the other; or none


class Trail(NamedTuple):
    """Steps that have been taken, with all that the way back needs."""

    classes: Classes
    mean: bool
    counts: list[int]  # how many numbers each parameter has
    by_step: Array2
    by_weight: Array1
    steps: list[_Step]
    last: Run | None  # the blocks under the last weights, if their moments were wanted


class Gradients(NamedTuple):
    """Of what a descent began from."""

    params: list[Tensor]  # each in a row
    by_step: Tensor  # (parameters, steps)
    by_weight: list[Tensor]  # like the parameters; empty where there are no such rates


class _Step(NamedTuple):
    gradients: Tensor  # of all parameters, in a row
    seen: _Seen | None  # None where steps count as of first order


class _Seen(NamedTuple):
    run: Run
    passed: Passed
    head: tuple[Tensor, Tensor]  # weight and bias


def descend_and_keep(
    images: Tensor,
    share: Tensor,
    params: Sequence[Tensor],
    by_step: Sequence[Tensor | None],
    by_weight: Sequence[Tensor | None],
    classes: Classes,
    sizes: Sizes,
    epsilon: float,
    *,
    mean: bool,
    moments: bool = False,
    first_order: bool = False,
) -> tuple[Descended, Trail]:
    """Take the steps: see native.descent.Descent; parameters and rates are those of the blocks, then of the head.

    Of first order, gradients count as constants.
    """
    counts = [each.numel() for each in params]
    rates = rates_by_step([None if each is None else array(each) for each in by_step])
    factors = [None if each is None else array(each) for each in by_weight]
    of_weights = factors_of(factors, [array(each) for each in params])
    weights, ends = torch.cat([each.flatten() for each in params]), np.cumsum(counts)
    steps = list[_Step]()
    for step in range(rates.shape[1]):
        run, (weight, bias) = _run(images, share, weights, params, sizes, epsilon)
        gradients, of_out = torch.empty(sum(counts)), torch.empty(run.out(len(run) - 1).shape)
        *_, of_weight, of_bias = torch.split_with_sizes(gradients, counts)
        out = array(run.out(len(run) - 1))
        features, of_head = np.empty((len(classes.targets), weight.shape[1]), np.float32), of_weight.view(weight.shape)
        given = out, features, array(weight), array(bias), *classes
        head_step(*given, array(of_head), array(of_bias), mean, array(of_out))
        passed = blocks.back(run, of_out, kept=not first_order, into=gradients)
        steps.append(_Step(gradients, None if first_order else _Seen(run, passed, (weight, bias))))
        weights = weights.clone()
        update(array(weights), array(gradients), ends, rates, of_weights, step)
    last = _run(images, share, weights, params, sizes, epsilon)[0] if moments else None
    trail = Trail(classes, mean, counts, rates, of_weights, steps, last)
    return Descended(split_like(weights, params), [] if last is None else last.moments()), trail


def go_back(
    trail: Trail, of_params: Sequence[Tensor | None], of_moments: Sequence[Tensor | None], *, rates: bool
) -> Gradients:
    """The gradients of all that the steps began from.

    Args:
        trail: the steps.
        of_params: those of the weights after the last step; None for 0.
        of_moments: those of mean and variance of each block under them.
        rates: whether those of the rates are wanted; else they are 0.
    """
    counts, by_step, by_weight = trail.counts, trail.by_step, trail.by_weight
    ends = np.cumsum(counts)
    back = blocks.in_a_row(of_params, counts)  # l_{k+1}
    in_blocks = sum(counts[:-2])
    if trail.last is not None and any(each is not None for each in of_moments):
        extras = [Extra(None, *pair) for pair in zip(of_moments[::2], of_moments[1::2], strict=True)]
        more = torch.zeros(in_blocks)
        blocks.back(trail.last, None, extras, into=more)
        back[:in_blocks] += more
    of_steps, of_weights = np.zeros_like(by_step), torch.zeros(len(by_weight))
    for number in reversed(range(len(trail.steps))):
        step = trail.steps[number]
        if rates:
            given = array(back), array(step.gradients), ends, by_step, by_weight, number
            _rates_back(*given, of_steps, array(of_weights))
        if step.seen is None:
            continue
        changes = torch.zeros(len(back))
        update(array(changes), array(back), ends, by_step, by_weight, number)
        more = torch.empty(len(back))
        _through_step(trail, step.seen, changes, more)
        back += more
    split = torch.split_with_sizes(of_weights, counts) if len(of_weights) else ()
    return Gradients(list(torch.split_with_sizes(back, counts)), torch.from_numpy(of_steps), list(split))


def split_like(flat: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Its parts, shaped as these."""
    parts = torch.split_with_sizes(flat, [each.numel() for each in params])
    return [part if like.dim() == 1 else part.view(like.shape) for part, like in zip(parts, params, strict=True)]


def _run(
    images: Tensor, share: Tensor, weights: Tensor, like: Sequence[Tensor], sizes: Sizes, epsilon: float
) -> tuple[Run, tuple[Tensor, Tensor]]:
    *flat, weight, bias = split_like(weights, like)
    return blocks.forward(images, share, flat, sizes, epsilon), (weight, bias)


def _through_step(trail: Trail, seen: _Seen, changes: Tensor, found: Tensor) -> None:
    """g'(W)^T `changes` into `found`."""
    run, (weight, bias) = seen.run, seen.head
    out = run.out(len(run) - 1)
    *_, at_weight, at_bias = torch.split_with_sizes(changes, trail.counts)
    *_, of_weight, of_bias = torch.split_with_sizes(found, trail.counts)
    at_head = array(at_weight.view(weight.shape)), array(at_bias)
    of_head = array(of_weight.view(weight.shape)), array(of_bias)

    def through_head(at_grad: Tensor) -> Tensor:
        of_out = torch.empty(out.shape)
        given = array(out), array(weight), array(bias), *trail.classes
        _head_again(*given, array(at_grad), *at_head, trail.mean, *of_head, array(of_out))
        return of_out

    in_blocks = len(found) - weight.numel() - bias.numel()
    _, of_blocks = back_again(run, seen.passed, changes[:in_blocks], through_head)
    found[:in_blocks] = of_blocks


@compiled
def _head_again(
    out: Array5,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    share: Array1,
    present: Array1,
    at_out: Array5,
    at_weight: Array2,
    at_bias: Array1,
    mean: bool,
    of_weight: Array2,
    of_bias: Array1,
    of_out: Array5,
) -> None:
    """The head, with what it reads, once more; the gradient at the output's gradient reads like the output."""
    shape = out.shape[1], weight.shape[1]
    features, at_features = np.empty(shape, np.float32), np.empty(shape, np.float32)
    of_features = np.empty(shape, np.float32)
    read_out(out, mean, features)
    read_out(at_out, mean, at_features)
    changes = at_features, at_weight, at_bias
    head_second_gradients(features, weight, bias, targets, share, present, changes, of_features, of_weight, of_bias)
    send_back(of_features, mean, of_out)


@compiled
def _rates_back(
    back: Array1,
    gradients: Array1,
    ends: Indices,
    by_step: Array2,
    by_weight: Array1,
    step: int,
    of_steps: Array2,
    of_weights: Array1,
) -> None:
    """The gradients of the rates of one step, added to those of the others."""
    first = 0
    for number in range(len(ends)):
        total = 0.0
        for i in range(first, ends[number]):
            each = back[i] * gradients[i]
            if len(by_weight) > 0:
                of_weights[i] -= by_step[number, step] * each
                each *= by_weight[i]
            total += each
        of_steps[number, step] -= total
        first = ends[number]
