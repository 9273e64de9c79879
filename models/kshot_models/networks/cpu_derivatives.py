"""Conv4's blocks on a CPU, forward and back, and back through going back: plain functions of tensors.

    forward     z_l = w_l * x_{l-1}             x_l = out_l(z_l)                        for l = 1 ... L
    back        s_l = out_l'(z_l) g_l           dw_l = W(x_{l-1}, s_l)                  for l = L ... 1
                g_{l-1} = I(s_l, w_l)
    once more   with u_l for dw_l given and v_{l-1} for g_{l-1}, v_0 = 0:
                of s_l: u_l * x_{l-1} + w_l * v_{l-1}      of x_{l-1}: I(s_l, u_l)      for l = 1 ... L
                of w_l: W(v_{l-1}, s_l)                    of z_l and g_l: out_l''
                then, with what came to z_l and x_l, back again                         for l = L ... 1

out_l is normalization, pooling and ReLU; W and I are the two gradients of a convolution. The kernels are those of
batched/native, and so are the axes: tasks, n, height, width, channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.batched import Features, Pooling, native, through_moments
from kshot_models.networks.block import BlockShape

__all__ = ["Block", "Extra", "Passed", "back", "back_again", "forward"]


_FEW_CHANNELS = 4
_SOME_IMAGES = 5


class Block(NamedTuple):
    """A block that has been computed, with all that the way back needs, or with what makes it again."""

    filters: Tensor  # (1, outside, 9 inside)
    convolution: native.Convolved
    raw: Tensor | None  # z_l; None if it is made again
    norm: tuple[Tensor, Tensor, Tensor]  # gain, bias and the examples' shares
    moments: tuple[Tensor, Tensor]
    out: Tensor  # x_l
    kept: bool  # all of it

    def features(self) -> Features:
        """What is normalized."""
        raw = native.again(self.convolution, self.filters) if self.raw is None else self.raw
        return Features(raw, *self.norm)


class Passed(NamedTuple):
    """What went back through a block."""

    above: Tensor  # g_l
    below: Tensor | None  # s_l; None if it is made again
    of_gain: Tensor
    of_bias: Tensor


class Extra(NamedTuple):
    """What comes to a block's tensors besides the gradient from above."""

    raw: Tensor | None = None  # to z_l
    mean: Tensor | None = None
    variance: Tensor | None = None
    out: Tensor | None = None  # to x_l


def forward(images: Tensor, share: Tensor, params: Sequence[Tensor], shape: BlockShape, *, keep: bool) -> list[Block]:
    """Compute the blocks.

    Args:
        images: (1, n, height, width, channels).
        share: (1, n), of each example in the moments.
        params: filters (1, outside, 9 inside), gain and bias (1, outside) of each block, one after the other.
        shape: of the blocks.
        keep: all that the way back needs. Else what costs little to make again is not: what convolutions are made of,
            what is sent back, and the convolution of a first block of few channels, which has the largest outputs.
    """
    done: list[Block] = []
    below = images
    for filters, gain, bias in zip(params[::3], params[1::3], params[2::3], strict=True):
        raw, convolution = native.convolved(below, filters, shape.stride, keep=keep)
        below, mean, variance = native.normalize(Features(raw, gain, bias, share), _pooling(shape))
        held = raw if keep or not _cheap(convolution) else None
        done.append(Block(filters, convolution, held, (gain, bias, share), (mean, variance), below, keep))
    return done


def back(
    done: Sequence[Block], grad: Tensor | None, extras: Sequence[Extra], shape: BlockShape, *, images: bool
) -> tuple[list[Passed], list[Tensor | None]]:
    """Go back through the blocks.

    Args:
        done: the blocks.
        grad: the gradient of the last block's output.
        extras: what else comes to each block; tensors for raw and out are written over.
        shape: of the blocks.
        images: whether the images' gradient is wanted.

    Returns:
        what went through each block, and the gradients of images, filters, gain, bias, filters, ...
    """
    passed: list[Passed] = []
    found: list[Tensor | None] = []
    above = grad
    for number in reversed(range(len(done))):
        block, extra = done[number], extras[number]
        if extra.out is not None:
            above = extra.out if above is None else extra.out.add_(above)
        alone = extra.raw is None and extra.mean is None and extra.variance is None
        if number == 0 and not images and above is not None and block.raw is None and alone:
            *of_first, went = _first_back(block, above, shape)
            passed.append(went)
            found[:0] = of_first
            break
        below, of_gain, of_bias = extra.raw, None, None
        features = block.features()
        if above is not None:
            sent, of_gain, of_bias = native.normalize_gradient(features, block.moments, above, _pooling(shape))
            passed.append(Passed(above, sent if block.kept else None, of_gain, of_bias))
            below = sent if below is None else below.add_(sent)
        through = through_moments(features, block.moments[0], extra.mean, extra.variance)
        if through is not None:
            below = through if below is None else below + through
        above = of_filters = None
        if below is not None:
            above, of_filters = native.gradients(block.convolution, below, inputs=images or number > 0, filters=True)
        found[:0] = [of_filters, of_gain, of_bias]
    return passed[::-1], [above if images else None, *found]


def back_again(
    done: Sequence[Block], passed: Sequence[Passed], changes: Sequence[Tensor | None], shape: BlockShape
) -> tuple[Tensor, list[Tensor | None]]:
    """Go back through `back` where it had a gradient of the output and nothing else.

    Args:
        done: the blocks.
        passed: what went through each.
        changes: the gradients at the gradients of filters, gain, bias, filters, ...
        shape: of the blocks.

    Returns:
        the gradient of `grad`, and those of images, filters, gain, bias, filters, ...; of the images there is none.
    """
    extras: list[Extra] = []
    more: list[Tensor | None] = [None]
    v: Tensor | None = None
    for number, (block, went) in enumerate(zip(done, passed, strict=True)):
        u, at_gain, at_bias = changes[3 * number : 3 * number + 3]
        features, sent = block.features(), went.below
        if sent is None:
            sent = native.normalize_gradient(features, block.moments, went.above, _pooling(shape))[0]
        change = torch.zeros_like(sent) if u is None else native.again(block.convolution, u)
        of_filters = None
        if v is not None:
            more_change, carried = native.convolved(v, block.filters, shape.stride, keep=True)
            change.add_(more_change)
            _, of_filters = native.gradients(carried, sent, inputs=False, filters=True)
            if u is not None:
                height, width = v.shape[2:4]
                to_below = native.input_gradient(sent, u, height, width, shape.stride, "ieee")
                extras[-1] = extras[-1]._replace(out=to_below)
        none = torch.zeros_like(went.of_gain)
        others = (none if at_gain is None else at_gain, none if at_bias is None else at_bias)
        sums = (went.of_gain, went.of_bias)
        of_raw, of_gain, v = native.normalize_second_gradient(
            features, block.moments, went.above, sums, (change, *others), _pooling(shape)
        )
        extras.append(Extra(raw=of_raw))
        more += [of_filters, of_gain, None]
    assert v is not None  # there are blocks
    _, found = back(done, None, extras, shape, images=False)
    return v, [_sum(one, other) for one, other in zip(found, more, strict=True)]


def _first_back(block: Block, above: Tensor, shape: BlockShape) -> tuple[Tensor, Tensor, Tensor, Passed]:
    """Go back through a first block whose images need no gradient: some images at a time, as its outputs are large.

    Returns:
        the gradients of filters, gain and bias, and what went through.
    """
    _, gain, bias, share = features = block.features()
    sums = native.gradient_sums(features, block.moments, above, _pooling(shape))
    total: Tensor | None = None
    for start in range(0, above.shape[1], _SOME_IMAGES):
        part = slice(start, start + _SOME_IMAGES)
        some = Features(features.raw[:, part], gain, bias, share[:, part])
        sent = native.gradient_by_sums(some, block.moments, above[:, part], sums, _pooling(shape))
        of_filters = native.weight_gradient(block.convolution.inputs[:, part], sent, shape.stride, "ieee")
        total = of_filters if total is None else total.add_(of_filters)
    assert total is not None  # there are images
    return total, *sums, Passed(above, None, *sums)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _cheap(convolution: native.Convolved) -> bool:
    return convolution.inputs.shape[-1] <= _FEW_CHANNELS


def _pooling(shape: BlockShape) -> Pooling:
    return Pooling(shape.pool, shape.epsilon)
