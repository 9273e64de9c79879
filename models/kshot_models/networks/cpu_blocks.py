"""Conv4's blocks on a CPU: one operation for all of them, with derivatives of both orders.

The numbers are those of batched_blocks.py, which does the same operation by operation, for torch.func; here nothing but
kernels costs time. Where moments are given, as they are for queries, there is a derivative of the first order alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kshot_models.batched import applied
from kshot_models.batched.native import blocks
from kshot_models.batched.native.again import back_again
from kshot_models.batched.native.blocks import Extra
from kshot_models.batched.native.classifier import Classifier
from kshot_models.native.blocks import Keep, Sizes
from kshot_models.networks.block import BlockShape
from kshot_models.networks.network import Pull
from kshot_models.norm import NormPass
from kshot_models.serving import kept_briefly
from kshot_models.types import Params

__all__ = ["cpu_blocks", "cpu_classifier", "cpu_pullback", "laid_out"]


def cpu_blocks(params: Params, inputs: Tensor, norms: NormPass, count: int, shape: BlockShape) -> Tensor:
    """Run the blocks; see batched_blocks.batched_blocks."""
    names = [f"norm{i}" for i in range(1, count + 1)]
    if norms.given is not None:  # normalization by them is a factor and a shift
        params = dict(params)
        for name in names:
            moments = norms.moments(name)
            assert moments is not None  # they are given for every layer
            mean, variance = moments
            factor = params[f"{name}.gain"] * torch.rsqrt(variance + shape.epsilon)
            shift = torch.addcmul(params[f"{name}.bias"], mean, factor, value=-1)
            params |= {f"{name}.gain": factor, f"{name}.bias": shift}
            norms.record(name, mean, variance)
    images, share, flat, sizes = laid_out(params, inputs, norms, count, shape)
    if not torch.is_grad_enabled():
        sizes = sizes._replace(keep=Keep.NOTHING)
        run = blocks.forward(images, share, flat, sizes, shape.epsilon, scale_only=norms.given is not None)
        features, *found = _results(run)
    elif norms.given is not None:
        features = applied(_ByMoments, sizes, share, images, *flat)
    else:
        features, *found = applied(_Blocks, sizes, shape.epsilon, share, images, *flat)
    if norms.given is None:
        for name, mean, variance in zip(names, found[::2], found[1::2], strict=True):
            norms.record(name, mean, variance)
    result: Tensor = features[0].movedim(-1, 1)
    return result


def cpu_classifier(
    params: Params, head: Params, norms: NormPass, count: int, shape: BlockShape, *, mean: bool
) -> Classifier:
    """Blocks and head for images by given moments, which may be asked any number of times."""
    flat = _in_order(params, count)
    with_moments = list[Tensor]()
    for i in range(count):
        moments = norms.moments(f"norm{i + 1}")
        assert moments is not None  # they are given for every layer
        with_moments += [*flat[3 * i : 3 * i + 3], *moments]
    return Classifier(
        with_moments,
        head["weight"],
        head["bias"],
        stride=shape.stride,
        pool=shape.pool,
        epsilon=shape.epsilon,
        mean=mean,
    )


def cpu_pullback(params: Params, inputs: Tensor, norms: NormPass, count: int, shape: BlockShape) -> tuple[Tensor, Pull]:
    """Run the blocks by moments of their own; features (n, outside, height', width'), and the way back from there."""
    images, share, flat, sizes = laid_out(params, inputs, norms, count, shape)
    run = blocks.forward(images, share, flat, sizes._replace(keep=Keep.ALL), shape.epsilon)

    def pull(grad: Tensor) -> Params:
        found = blocks.back(run, grad.movedim(1, -1)[None]).found
        grads: Params = {}
        for i, (filters, gain, bias) in enumerate(zip(found[::3], found[1::3], found[2::3], strict=True), start=1):
            assert filters is not None  # there is a gradient of the features, and so of all
            assert gain is not None
            assert bias is not None
            grads[f"conv{i}.weight"] = filters.view(len(gain), 3, 3, -1).permute(0, 3, 1, 2)
            grads |= {f"norm{i}.gain": gain, f"norm{i}.bias": bias}
        return grads

    return run.out(count - 1)[0].movedim(-1, 1), pull


def _in_order(params: Params, count: int) -> list[Tensor]:
    """Filters (outside, 3, 3, inside), gain, bias, filters, ..."""
    flat = list[Tensor]()
    for i in range(1, count + 1):
        flat += [params[f"conv{i}.weight"].permute(0, 2, 3, 1), params[f"norm{i}.gain"], params[f"norm{i}.bias"]]
    return flat


def laid_out(
    params: Params, inputs: Tensor, norms: NormPass, count: int, shape: BlockShape
) -> tuple[Tensor, Tensor, list[Tensor], Sizes]:
    """Images (1, n, height, width, channels), shares (1, n), and filters, gain, bias, filters, ... of one task."""
    images, share, flat = inputs.movedim(1, -1)[None], norms.share(inputs)[None], _in_order(params, count)
    outside = tuple(len(filters) for filters in flat[::3])
    kept = Keep.ALL if kept_briefly() else Keep.LITTLE
    return images, share, flat, Sizes(images.shape[1:], outside, shape.stride, shape.pool, kept)


class _Blocks(torch.autograd.Function):
    """(sizes, epsilon, share, images, filters, gain, bias, ...) -> features, mean, variance, mean, ..."""

    @staticmethod
    def forward(
        ctx: Any, sizes: Sizes, epsilon: float, share: Tensor, images: Tensor, *params: Tensor
    ) -> tuple[Tensor | None, ...]:
        run = blocks.forward(images, share, params, sizes, epsilon)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(images, *params)
            ctx.run = run
        ctx.set_materialize_grads(False)
        return _results(run)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        images, *params = ctx.saved_tensors
        found = applied(_Gradient, ctx.run, ctx.needs_input_grad[3], grads[1:], grads[0], images, *params)
        return None, None, None, *found


def _results(run: blocks.Run) -> tuple[Tensor, ...]:
    return run.out(len(run) - 1), *run.moments()


class _Gradient(torch.autograd.Function):
    """(..., gradient of features, images, filters, ...) -> the gradients of images, filters, gain, bias, ..."""

    @staticmethod
    def forward(
        ctx: Any,
        run: blocks.Run,
        images_too: bool,  # noqa: FBT001 - autograd passes by place
        of_moments: tuple[Tensor | None, ...],
        grad: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor | None, ...]:
        del tensors  # whose second derivatives these are
        alone = all(moment is None for moment in of_moments)
        extras = [] if alone else [Extra(None, *pair) for pair in zip(of_moments[::2], of_moments[1::2], strict=True)]
        again = any(ctx.needs_input_grad)
        passed = blocks.back(run, grad, extras, images=images_too, kept=again)
        if again:
            ctx.run, ctx.passed = run, passed
            ctx.whole = not images_too and grad is not None and alone
        ctx.set_materialize_grads(False)
        found = (
            None if each is None else each.view(like.shape) for each, like in zip(passed.found, run.params, strict=True)
        )
        return passed.images, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *changes: Tensor | None) -> tuple[Tensor | None, ...]:
        if not ctx.whole:
            raise NotImplementedError(
                "the blocks of Conv4 have second derivatives of their features with respect to weights, not of their "
                "moments, nor with respect to images; map over norm.py's primitives"
            )
        params = ctx.run.params
        counts = [like.numel() for like in params]
        flat = blocks.in_a_row(changes[1:], counts)
        of_grad, found = back_again(ctx.run, ctx.passed, flat, lambda change: None)
        parts = zip(torch.split_with_sizes(found, counts), params, strict=True)
        return None, None, None, of_grad, None, *(each.view(like.shape) for each, like in parts)


class _ByMoments(torch.autograd.Function):
    """(sizes, share, images, filters, factor, shift, filters, ...) -> features."""

    @staticmethod
    def forward(ctx: Any, sizes: Sizes, share: Tensor, images: Tensor, *params: Tensor) -> Tensor:
        run = blocks.forward(images, share, params, sizes._replace(keep=Keep.ALL), 0.0, scale_only=True)
        if any(ctx.needs_input_grad):
            ctx.run = run
        return run.out(len(run) - 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found, of_images = blocks.back_scaled(ctx.run, grad, images=ctx.needs_input_grad[2])
        return None, None, of_images, *found
