"""Backward operations of autograd, said in operations that an inference runtime has.

    convolution_backward    input: a convolution of the output's gradient with the kernel turned by half
                            weight: the output's gradient times the patches of the input, as one matrix product
    nll_loss (both ways)    a product with the one-hot targets, where ATen gathers and scatters

Everything else that is not elementary is left to PyTorch's own table (`core_aten_decompositions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_training.errors import OnnxNotSupported

__all__ = ["convolution_backward", "decompositions", "nll_loss_backward", "nll_loss_forward"]

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for `make_fx`."""
    from torch._decomp import core_aten_decompositions  # noqa: PLC0415 - seconds of start-up, needed to export only

    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    table[aten.convolution_backward.default] = convolution_backward
    table[aten.nll_loss_forward.default] = nll_loss_forward
    table[aten.nll_loss_backward.default] = nll_loss_backward
    return table


def convolution_backward(
    grad: Tensor, inputs: Tensor, weight: Tensor, *options: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of a 2d convolution with respect to its input, weight and bias.

    Args:
        grad: of the output, (n, out, height', width').
        inputs: (n, in, height, width).
        weight: (out, in, kernel, kernel).
        options: as ATen gives them: bias sizes, stride, padding, dilation, transposed, output padding, groups, and
            which of the three gradients are wanted.

    Raises:
        OnnxNotSupported: for a kind of convolution that no network here has.
    """
    _, stride, padding, dilation, transposed, _, groups, output_mask = options
    if transposed or groups != 1 or tuple(dilation) != (1, 1):
        raise OnnxNotSupported("only plain convolutions have an ONNX backward pass: groups 1, dilation 1")
    wants_input, wants_weight, wants_bias = output_mask
    return (
        _of_input(grad, inputs, weight, stride, padding) if wants_input else None,
        _of_weight(grad, inputs, weight, stride, padding) if wants_weight else None,
        grad.sum((0, 2, 3)) if wants_bias else None,
    )


def _of_input(grad: Tensor, inputs: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    kernel = weight.shape[2:]
    if tuple(stride) == (1, 1):
        turned = weight.flip(2, 3).transpose(0, 1)
        return F.conv2d(grad, turned, padding=[k - 1 - p for k, p in zip(kernel, padding, strict=True)])
    # What the strides skipped at the far edge has to come back as rows of zeros.
    sizes = zip(inputs.shape[2:], grad.shape[2:], kernel, stride, padding, strict=True)
    missing = [size - ((out - 1) * s - 2 * p + k) for size, out, k, s, p in sizes]
    return F.conv_transpose2d(grad, weight, stride=list(stride), padding=list(padding), output_padding=missing)


def _of_weight(grad: Tensor, inputs: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    height, width = grad.shape[2:]
    padded = F.pad(inputs, (padding[1], padding[1], padding[0], padding[0]))
    positions = [(row, column) for row in range(weight.shape[2]) for column in range(weight.shape[3])]
    flat = grad.transpose(0, 1).flatten(1)  # (out, n * height' * width')
    products = []
    for row, column in positions:
        down = slice(row, row + (height - 1) * stride[0] + 1, stride[0])
        across = slice(column, column + (width - 1) * stride[1] + 1, stride[1])
        patch = padded[:, :, down, across]  # what this position of the kernel has seen
        products.append(flat @ patch.transpose(0, 1).flatten(1).T)  # (out, in)
    return torch.stack(products, -1).reshape(weight.shape)


def nll_loss_forward(
    inputs: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """-inputs[i, target[i]], by a product with the one-hot targets, and the total weight, which nobody reads.

    Raises:
        OnnxNotSupported: for a reduction or class weights, which our losses do not use.
    """
    del ignore_index
    if weight is not None or reduction != 0:
        raise OnnxNotSupported("only the unreduced, unweighted nll_loss has an ONNX graph")
    return -torch.where(_member(inputs, target), inputs, 0.0).sum(1), inputs.new_zeros(())


def nll_loss_backward(
    grad: Tensor,
    inputs: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
) -> Tensor:
    """The gradient of `nll_loss_forward`: -grad[i] at the target, 0 elsewhere.

    Raises:
        OnnxNotSupported: as `nll_loss_forward`.
    """
    del ignore_index, total_weight
    if weight is not None or reduction != 0:
        raise OnnxNotSupported("only the unreduced, unweighted nll_loss has an ONNX graph")
    return torch.where(_member(inputs, target), -grad[:, None], 0.0)


def _member(inputs: Tensor, target: Tensor) -> Tensor:
    return target[:, None] == torch.arange(inputs.shape[1], device=inputs.device)
