"""Convolutions of many tasks at once, each with filters of its own: 3x3, padding 1, stride 1 or 2.

Three functions of two tensors, which are linear in each of them and each other's derivatives:

    convolve(x, w)         z_o(m) = sum_{k,c} w_okc x_c(m + k)
    input_gradient(g, w)   of sum(g * convolve(x, w)) with respect to x
    weight_gradient(x, g)  with respect to w

so that the derivatives of every order are these three again. A grouped convolution computes the same; libraries do it
group by group, and lay features out channels-first for it. Here features are channels-last.

On a GPU the products are those of kernels/convolution.py, elsewhere, and in double precision, reference.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot_models.batched import reference
from kshot_models.batched.backend import kernels_for, precision
from kshot_models.batched.folding import applied, mapped

__all__ = ["convolve"]


def convolve(inputs: Tensor, filters: Tensor, *, stride: int) -> Tensor:
    """The convolution of each task's images with its filters.

    Args:
        inputs: (tasks, n, height, width, inside).
        filters: (tasks, outside, 9 * inside), of each filter the 3 x 3 positions in rows, and the channels of each.
        stride: 1 or 2.

    Returns:
        (tasks, n, ceil(height / stride), ceil(width / stride), outside).
    """
    # Here, not where the kernels run: backward passes have threads of their own.
    return _convolve(inputs, filters, Way(stride, precision()))


class Way(NamedTuple):
    """How to convolve, for the derivatives too."""

    stride: int
    precision: str  # of the products; see backend.precision


class _Bilinear(torch.autograd.Function):
    """What the three have in common: their derivatives need the two tensors and the Way again."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs[:2])
        ctx.way = inputs[2]


class _Convolve(_Bilinear):
    """See `convolve`."""

    @staticmethod
    def forward(inputs: Tensor, filters: Tensor, way: Way) -> Tensor:
        kernels = kernels_for(inputs)
        if kernels is None:
            return reference.convolve(inputs, filters, way.stride)
        result: Tensor = kernels.convolve(inputs, filters, *way)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, filters = ctx.saved_tensors
        return (
            _input_gradient(grad, filters, ctx.way, inputs) if ctx.needs_input_grad[0] else None,
            _weight_gradient(inputs, grad, ctx.way) if ctx.needs_input_grad[1] else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_Convolve.apply, info.batch_size, in_dims, arguments)


class _InputGradient(_Bilinear):
    """(grad, filters) -> the gradient of the inputs, whose height and width are given."""

    @staticmethod
    def forward(grad: Tensor, filters: Tensor, way: Way, height: int, width: int) -> Tensor:
        kernels = kernels_for(grad)
        if kernels is None:
            return reference.input_gradient(grad, filters, way.stride, height, width)
        result: Tensor = kernels.input_gradient(grad, filters, height, width, *way)
        return result

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        grad, filters = ctx.saved_tensors
        return (
            _convolve(change, filters, ctx.way) if ctx.needs_input_grad[0] else None,
            _weight_gradient(change, grad, ctx.way) if ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_InputGradient.apply, info.batch_size, in_dims, arguments)


class _WeightGradient(_Bilinear):
    """(inputs, grad) -> the gradient of the filters."""

    @staticmethod
    def forward(inputs: Tensor, grad: Tensor, way: Way) -> Tensor:
        kernels = kernels_for(grad)
        if kernels is None:
            return reference.weight_gradient(inputs, grad, way.stride)
        result: Tensor = kernels.weight_gradient(inputs, grad, *way)
        return result

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        inputs, grad = ctx.saved_tensors
        return (
            _input_gradient(grad, change, ctx.way, inputs) if ctx.needs_input_grad[0] else None,
            _convolve(inputs, change, ctx.way) if ctx.needs_input_grad[1] else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        return mapped(_WeightGradient.apply, info.batch_size, in_dims, arguments)


def _convolve(inputs: Tensor, filters: Tensor, way: Way) -> Tensor:
    result: Tensor = applied(_Convolve, inputs, filters, way)
    return result


def _input_gradient(grad: Tensor, filters: Tensor, way: Way, inputs: Tensor) -> Tensor:
    height, width = inputs.shape[-3:-1]
    result: Tensor = applied(_InputGradient, grad, filters, way, height, width)
    return result


def _weight_gradient(inputs: Tensor, grad: Tensor, way: Way) -> Tensor:
    result: Tensor = applied(_WeightGradient, inputs, grad, way)
    return result
