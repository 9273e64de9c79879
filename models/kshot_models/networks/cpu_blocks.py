"""Conv4's blocks on a CPU: one operation for all of them, with derivatives of both orders (cpu_derivatives.py).

The numbers are those of batched_blocks.py, which does the same operation by operation, for torch.func; here nothing but
kernels costs time. Where moments are given, as they are for queries, there is a derivative of the first order alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kshot_models.batched import applied, native
from kshot_models.networks.block import BlockShape
from kshot_models.networks.cpu_derivatives import Block, Extra, back, back_again, forward
from kshot_models.norm import NormPass
from kshot_models.serving import kept_briefly
from kshot_models.types import Params

__all__ = ["cpu_blocks"]


def cpu_blocks(params: Params, inputs: Tensor, norms: NormPass, count: int, shape: BlockShape) -> Tensor:
    """Run the blocks; see batched_blocks.batched_blocks."""
    names = [f"norm{i}" for i in range(1, count + 1)]
    flat: list[Tensor] = []
    for i, name in enumerate(names, start=1):
        gain, bias = params[f"{name}.gain"], params[f"{name}.bias"]
        given = norms.moments(name)
        if given is not None:  # normalization by them is a factor and a shift
            gain = gain * torch.rsqrt(given[1] + shape.epsilon)
            bias = torch.addcmul(bias, given[0], gain, value=-1)
            norms.record(name, *given)
        flat += [params[f"conv{i}.weight"].permute(0, 2, 3, 1).flatten(1)[None], gain[None], bias[None]]
    images = inputs.movedim(1, -1)[None]
    if norms.given is not None:
        features = applied(_ByMoments, shape, images, *flat)
    else:
        features, *found = applied(_Blocks, shape, kept_briefly(), norms.share(inputs)[None], images, *flat)
        for name, mean, variance in zip(names, found[::2], found[1::2], strict=True):
            norms.record(name, mean[0], variance[0])
    result: Tensor = features[0].movedim(-1, 1)
    return result


class _Blocks(torch.autograd.Function):
    """(shape, keep, share, images, filters, gain, bias, ...) -> features, mean, variance, mean, ..."""

    @staticmethod
    def forward(
        ctx: Any,
        shape: BlockShape,
        keep: bool,  # noqa: FBT001 - autograd passes by place
        share: Tensor,
        images: Tensor,
        *params: Tensor,
    ) -> tuple[Tensor | None, ...]:
        done = forward(images, share, params, shape, keep=keep)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(images, *params)
            ctx.done, ctx.shape = done, shape
        ctx.set_materialize_grads(False)
        return _views(done[-1].out, *(moment for block in done for moment in block.moments))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        images, *params = ctx.saved_tensors
        found = applied(_Gradient, ctx.shape, ctx.done, ctx.needs_input_grad[3], grads[1:], grads[0], images, *params)
        return None, None, None, *found


class _Gradient(torch.autograd.Function):
    """(..., gradient of features, images, filters, ...) -> the gradients of images, filters, gain, bias, ..."""

    @staticmethod
    def forward(
        ctx: Any,
        shape: BlockShape,
        done: list[Block],
        images_too: bool,  # noqa: FBT001 - autograd passes by place
        of_moments: tuple[Tensor | None, ...],
        grad: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor | None, ...]:
        del tensors  # whose second derivatives these are
        extras = [Extra(None, *pair) for pair in zip(of_moments[::2], of_moments[1::2], strict=True)]
        passed, found = back(done, grad, extras, shape, images=images_too)
        ctx.shape, ctx.done, ctx.passed = shape, done, passed
        ctx.whole = not images_too and grad is not None and all(moment is None for moment in of_moments)
        ctx.set_materialize_grads(False)
        return _views(*found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *changes: Tensor | None) -> tuple[Tensor | None, ...]:
        if not ctx.whole:
            raise NotImplementedError(
                "the blocks of Conv4 have second derivatives of their features with respect to weights, not of their "
                "moments, nor with respect to images; map over norm.py's primitives"
            )
        of_grad, found = back_again(ctx.done, ctx.passed, changes[1:], ctx.shape)
        return None, None, None, None, of_grad, *found


def _views(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The same tensors, as others: autograd hangs an operation on what it returns, which must not be what it keeps."""
    return tuple(None if tensor is None else tensor.view_as(tensor) for tensor in tensors)


class _ByMoments(torch.autograd.Function):
    """(shape, images, filters, factor, shift, filters, ...) -> features."""

    @staticmethod
    def forward(ctx: Any, shape: BlockShape, images: Tensor, *params: Tensor) -> Tensor:
        done = []
        below = images
        for filters, factor, shift in zip(params[::3], params[1::3], params[2::3], strict=True):
            raw, convolution = native.convolved(below, filters, shape.stride, keep=False)
            below = native.scale(raw, factor, shift, pool=shape.pool)
            if any(ctx.needs_input_grad):
                done.append((raw, convolution, factor, shift))
        ctx.done, ctx.shape = done, shape
        return below

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = []
        images_too = ctx.needs_input_grad[1]
        above: Tensor | None = grad
        for number, (raw, convolution, factor, shift) in reversed(list(enumerate(ctx.done))):
            assert above is not None  # wanted of every block but the first
            sent, *of_scale = native.scale_gradient(raw, factor, shift, above, pool=ctx.shape.pool)
            above, of_filters = native.gradients(convolution, sent, inputs=images_too or number > 0, filters=True)
            found[:0] = [of_filters, *of_scale]
        return None, above if images_too else None, *found
