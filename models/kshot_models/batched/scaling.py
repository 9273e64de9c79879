"""Normalization by given moments: a factor and a shift for each task and channel, pooling where wanted, and ReLU.

    out = relu(maxpool(factor z + shift))

Differentiable once: what is normalized by given moments are queries, which nothing adapts to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_models.batched import normalization_reference as reference
from kshot_models.batched.backend import kernels_for
from kshot_models.batched.folding import applied, mapped

__all__ = ["scale_activate"]


def scale_activate(raw: Tensor, factor: Tensor, shift: Tensor, *, pool: bool) -> Tensor:
    """Scale, pool and cut off at 0.

    Args:
        raw: (tasks, n, height, width, channels).
        factor: (tasks, channels).
        shift: (tasks, channels).
        pool: 2x2 max-pooling, which drops an odd last row or column.

    Returns:
        (tasks, n, height', width', channels).
    """
    result: Tensor = applied(_Scale, raw, factor, shift, pool)
    return result


class _Scale(torch.autograd.Function):
    """See scale_activate."""

    @staticmethod
    def forward(raw: Tensor, factor: Tensor, shift: Tensor, pool: bool) -> Tensor:  # noqa: FBT001 - torch passes by place
        result: Tensor = (kernels_for(raw) or reference).scale(raw, factor, shift, pool=pool)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        *tensors, ctx.pool = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (*applied(_ScaleGradient, *ctx.saved_tensors, grad, ctx.pool), None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_Scale.apply, info.batch_size, in_dims, arguments)


class _ScaleGradient(torch.autograd.Function):
    """(raw, factor, shift, grad of out) -> the gradients of the first three."""

    @staticmethod
    def forward(raw: Tensor, factor: Tensor, shift: Tensor, grad: Tensor, pool: bool) -> tuple[Tensor, ...]:  # noqa: FBT001 - see above
        compute = (kernels_for(raw) or reference).scale_gradient
        results: tuple[Tensor, ...] = compute(raw, factor, shift, grad, pool=pool)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        del ctx, grads
        raise NotImplementedError("a scaling of many tasks at once has no second derivative; map over norm.py's")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_ScaleGradient.apply, info.batch_size, in_dims, arguments)
