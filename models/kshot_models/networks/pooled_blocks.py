"""Blocks with 2x2 pooling, one after the other, in few passes over memory and few calls; block.py says what they equal.

A first block of few channels is a product with patches (patches.py), the others are Winograd's (winograd.py). Between
blocks a picture is a matrix (positions, n channels). Derivatives are written out, once: plain autograd may take them,
and not again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.networks import pooled_steps as steps
from kshot_models.networks.patches import Patches, as_columns, as_filters, centred_patches, patches
from kshot_models.networks.windows import window_order
from kshot_models.networks.winograd import filters_gradient, inputs_gradient, transforms
from kshot_models.serving import remembered

__all__ = ["PooledBlocks", "pooled_blocks_with_moments"]

_NARROW = 4  # input channels up to which patches beat Winograd's way

Extent = tuple[int, int, int]  # n, height, width


class _Block(NamedTuple):
    """A block that has been computed; the way back needs all of it. See pooled_steps.py."""

    out: Tensor  # (1, outside, 1, windows n)
    mean: Tensor  # (outside,) of the convolution
    variance: Tensor
    raw: Tensor  # (positions, n outside) the convolution, of a first block without its mean
    places: Tensor
    factors: tuple[Tensor, Tensor]  # V and U; of a first block the columns of its filters, and the maxima
    size: Tensor  # (outside,) the gain without its sign
    extent: Extent
    patches: Patches | None  # of a first block


_Back = tuple[Tensor | None, Tensor | None, Tensor, Tensor]  # gradients of picture, filters, size and bias


class PooledBlocks(torch.autograd.Function):
    """(epsilon, inputs, weight, gain, bias, weight, ...) -> features, mean, variance, mean, ...; see block.blocks."""

    @staticmethod
    def forward(ctx: Any, epsilon: float, inputs: Tensor, *params: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        rises = torch.cat(params[1::3]).min().item() > 0
        blocks: list[_Block] = []
        signs: list[Tensor | None] = []
        for weight, gain, bias in zip(params[::3], params[1::3], params[2::3], strict=True):
            signs.append(None if rises else torch.copysign(torch.ones_like(gain), gain))
            filters, size = (weight, gain) if rises else (_signed(weight, signs[-1]), gain.abs())
            if blocks:
                blocks.append(_later(_after(blocks[-1]), _halved(blocks[-1].extent), filters, size, bias, epsilon))
            elif inputs.shape[1] <= _NARROW:
                blocks.append(_first(inputs, filters, size, bias, epsilon))
            else:
                extent = (len(inputs), *inputs.shape[2:])
                blocks.append(_later(_as_picture(inputs), extent, filters, size, bias, epsilon))
        moments = [
            m for done, sign in zip(blocks, signs, strict=True) for m in (_signed(done.mean, sign), done.variance)
        ]
        ctx.epsilon, ctx.blocks, ctx.signs = epsilon, blocks, signs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*moments)
        return (_as_features(_after(blocks[-1]), _halved(blocks[-1].extent)), *moments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_moments: None) -> tuple[Tensor | None, ...]:  # noqa: D102
        wanted = ctx.needs_input_grad[1:]
        found: list[Tensor | None] = [None] * len(wanted)
        below = None if grad is None else _as_picture(grad)
        for number, done in reversed(list(enumerate(ctx.blocks))):
            if below is None:
                break
            at, sign = 1 + 3 * number, ctx.signs[number]
            back = _later_back if done.patches is None else _first_back
            below, filters, gain, bias = back(done, below, ctx.epsilon, filters=wanted[at], picture=any(wanted[:at]))
            found[at : at + 3] = [None if filters is None else _signed(filters, sign), _signed(gain, sign), bias]
        if wanted[0] and below is not None:
            found[0] = _as_features(below, ctx.blocks[0].extent)
        return (None, *found)


def pooled_blocks_with_moments(inputs: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Blocks of convolutions that have the norm in them.

    Args:
        inputs: (n, inside, height, width).
        layers: filters (outside, inside, 3, 3) and shift (outside,) of each.
    """
    extent: Extent = (len(inputs), *inputs.shape[2:])
    picture = None
    for filters, shift in layers:
        n, height, width = extent
        windows = (height // 2) * (width // 2)
        if picture is None and inputs.shape[1] <= _NARROW:
            picture = steps.first_answer(patches(inputs), as_columns(filters), shift, windows, n)
        else:
            below = _as_picture(inputs) if picture is None else picture
            by = transforms(height, width, below.dtype, below.device)
            picture = steps.later_answer(below, filters, shift, windows, n, by)
        extent = _halved(extent)
    assert picture is not None  # there are layers
    return _as_features(picture, extent)


def _first(inputs: Tensor, filters: Tensor, size: Tensor, bias: Tensor, epsilon: float) -> _Block:
    extent = (len(inputs), *inputs.shape[2:])
    known = remembered(inputs, "patches", lambda: centred_patches(inputs))
    columns = as_columns(filters)
    out, variance, raw, picked, places = steps.first_ahead(
        known.centred, known.covariance, columns, size, bias, epsilon, _windows(extent), extent[0]
    )
    return _Block(out, known.mean @ columns, variance, raw, places, (columns, picked), size, extent, known)


def _first_back(done: _Block, grad: Tensor, epsilon: float, *, filters: bool, picture: bool) -> _Back:
    (n, height, width), (columns, picked), known = done.extent, done.factors, done.patches
    assert known is not None
    unit = torch.rsqrt(done.variance + epsilon)
    sent, slope, offset, grad_size, grad_bias = steps.first_back(
        grad, done.out, done.raw, picked, done.places, unit, done.size, _windows(done.extent), n
    )
    found = below = None
    if filters:
        product = known.centred.T @ sent.view(-1, columns.shape[1])
        found = as_filters(product.addcmul_(known.products @ columns, slope))
    if picture:  # not so in an inner step: there it is images
        dense = sent + done.raw * slope.repeat(n) + offset.repeat(n)
        ordered = torch.empty_like(dense).index_copy_(0, window_order(height, width).to(dense.device), dense)
        image = F.conv_transpose2d(_as_features(ordered, done.extent), as_filters(columns), padding=1)
        below = _as_picture(image)
    return below, found, grad_size, grad_bias


def _later(picture: Tensor, extent: Extent, filters: Tensor, size: Tensor, bias: Tensor, epsilon: float) -> _Block:
    by = transforms(*extent[1:], picture.dtype, picture.device)
    out, mean, variance, raw, places, tiles, spectrum = steps.later_ahead(
        picture, filters, size, bias, epsilon, _windows(extent), extent[0], by
    )
    return _Block(out, mean, variance, raw, places, (tiles, spectrum), size, extent, None)


def _later_back(done: _Block, grad: Tensor, epsilon: float, *, filters: bool, picture: bool) -> _Back:
    n, height, width = done.extent
    (tiles, spectrum), by = done.factors, transforms(height, width, grad.dtype, grad.device)
    norm = done.size, done.mean, torch.rsqrt(done.variance + epsilon)
    products, grad_size, grad_bias = steps.later_back(
        grad, done.out, done.raw, done.places, norm, _windows(done.extent), n, by
    )
    return (
        inputs_gradient(products, spectrum, by) if picture else None,
        filters_gradient(products, tiles, by) if filters else None,
        grad_size,
        grad_bias,
    )


def _after(done: _Block) -> Tensor:
    """The picture that the next block takes: (windows, n outside)."""
    return done.out.permute(0, 2, 3, 1).reshape(_windows(done.extent), -1)


def _halved(extent: Extent) -> Extent:
    return extent[0], extent[1] // 2, extent[2] // 2


def _windows(extent: Extent) -> int:
    return (extent[1] // 2) * (extent[2] // 2)


def _as_picture(features: Tensor) -> Tensor:
    """(n, channels, height, width) -> (positions, n channels)."""
    return features.permute(2, 3, 0, 1).flatten(2).flatten(0, 1)


def _as_features(picture: Tensor, extent: Extent) -> Tensor:
    n, height, width = extent
    return picture.view(height, width, n, -1).permute(2, 3, 0, 1)


def _signed(values: Tensor, sign: Tensor | None) -> Tensor:
    return values if sign is None else values * sign.view(-1, *(1,) * (values.ndim - 1))
