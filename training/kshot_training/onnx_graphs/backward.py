"""The table from aten operations to ONNX, continued: what autograd leaves behind in an inner step.

convolution_backward    input: a convolution of the output's gradient with the kernel turned by half
                        weight: the output's gradient times the patches of the input, as one matrix product
max_pool2d ...          scattered to where the maxima came from
nll_loss (both ways)    a choice by the one-hot targets, where ATen gathers and scatters
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from kshot_training.errors import OnnxNotSupported
from kshot_training.onnx_graphs.lowering import Lowering, Value, positional

__all__ = ["BACKWARD"]

aten = torch.ops.aten


def _convolution(work: Lowering, node: Node) -> tuple[str, str, str]:
    grad, inputs, weight, _, stride, padding, dilation, transposed, _, groups, wanted = positional(node)
    if transposed or groups != 1 or list(dilation) != [1, 1]:
        raise OnnxNotSupported("only plain convolutions have an ONNX backward pass: groups 1, dilation 1")
    sizes = [[int(size) for size in each.meta["val"].shape[2:]] for each in (grad, inputs, weight)]
    values = [work.tensor(each) for each in (grad, inputs, weight)]
    return (
        _of_input(work, values, sizes, stride, padding) if wanted[0] else "",
        _of_weight(work, values, sizes, stride, padding) if wanted[1] else "",
        work.graph.node("ReduceSum", values[0], work.graph.constant([0, 2, 3]), keepdims=0) if wanted[2] else "",
    )


def _of_input(work: Lowering, values: list[str], sizes: list[list[int]], stride: Any, padding: Any) -> str:
    grad, _, weight = values
    after, before, kernel = sizes
    if list(stride) == [1, 1]:
        constant = work.graph.constant
        edges = constant([-1, -1]), constant([np.iinfo(np.int64).min] * 2)
        turned = work.graph.node("Slice", weight, *edges, constant([2, 3]), constant([-1, -1]))
        pads = [size - 1 - pad for size, pad in zip(kernel, padding, strict=True)]
        swapped = work.graph.node("Transpose", turned, perm=[1, 0, 2, 3])
        return work.graph.node("Conv", grad, swapped, pads=[*pads, *pads])
    # What the strides skipped at the far edge has to come back as rows of zeros.
    missing = [
        size - ((out - 1) * step - 2 * pad + width)
        for size, out, width, step, pad in zip(before, after, kernel, stride, padding, strict=True)
    ]
    attributes = {"strides": list(stride), "pads": [*padding, *padding], "output_padding": missing}
    return work.graph.node("ConvTranspose", grad, weight, **attributes)


def _of_weight(work: Lowering, values: list[str], sizes: list[list[int]], stride: Any, padding: Any) -> str:
    grad, inputs, weight = values
    after, _, kernel = sizes
    constant, node = work.graph.constant, work.graph.node
    padded = inputs
    if any(padding):
        padded = node("Pad", inputs, constant([0, 0, *padding, 0, 0, *padding]), constant(0.0, np.float32))
    seen = []  # by each position of the kernel
    for offset in product(*map(range, kernel)):
        ends = [start + (size - 1) * step + 1 for start, size, step in zip(offset, after, stride, strict=True)]
        seen.append(node("Slice", padded, constant(offset), constant(ends), constant([2, 3]), constant(list(stride))))
    patches = node("Concat", *seen, axis=1)  # (n, kernel * kernel * in, height', width')
    count = constant([-1])
    rows, columns = (node("Shape", weight, start=i, end=i + 1) for i in (0, 1))
    flat = [
        node("Reshape", node("Transpose", each, perm=[1, 0, 2, 3]), node("Concat", first, count, axis=0))
        for each, first in (
            (grad, rows),
            (patches, node("Mul", columns, constant([kernel[0] * kernel[1]]))),
        )
    ]  # (out, n * height' * width') and (kernel * kernel * in, n * height' * width')
    products = node("MatMul", flat[0], node("Transpose", flat[1], perm=[1, 0]))
    by_position = node("Reshape", products, node("Concat", rows, constant(kernel), columns, axis=0))
    return node("Transpose", by_position, perm=[0, 3, 1, 2])


def _max_pool(work: Lowering, node: Node) -> str:
    """The gradient goes back to where the maximum came from: of equal ones the first, as in torch."""
    grad, inputs, kernel, stride, *_, places = positional(node)
    if list(stride or kernel) != list(kernel):
        raise OnnxNotSupported("max-pooling with overlapping windows has no ONNX row")
    value, to = work.tensor(inputs), work.graph.node
    count = to("Reshape", to("Size", value), work.shape([1]))
    zeros = to("Expand", work.tensor(0.0, node.meta["val"].dtype), count)
    flat = [to("Reshape", each, work.shape([-1])) for each in (work.tensor(places), work.tensor(grad))]
    return to("Reshape", to("ScatterElements", zeros, *flat, axis=0), to("Shape", value))


def _threshold(work: Lowering, node: Node) -> str:
    grad, inputs, threshold = positional(node)
    dtype = node.meta["val"].dtype
    passes = work.graph.node("Greater", work.tensor(inputs), work.tensor(threshold, dtype))
    return work.graph.node("Where", passes, work.tensor(grad), work.tensor(0.0, dtype))


def _tanh(work: Lowering, node: Node) -> str:
    grad, output = (work.tensor(each) for each in positional(node))
    square = work.graph.node("Mul", output, output)
    slope = work.graph.node("Sub", work.tensor(1.0, node.meta["val"].dtype), square)
    return work.graph.node("Mul", grad, slope)


def _log_softmax(work: Lowering, node: Node) -> str:
    grad, output, axis, _ = positional(node)
    value = work.tensor(grad)
    total = work.graph.node("ReduceSum", value, work.graph.constant([axis]), keepdims=1)
    share = work.graph.node("Mul", work.graph.node("Exp", work.tensor(output)), total)
    return work.graph.node("Sub", value, share)


def _nll_loss(work: Lowering, node: Node) -> tuple[str, str]:
    """-inputs[i, target[i]]; and the total weight, which nobody reads."""
    inputs, targets, weight, reduction, _ = positional(node)
    zero = work.tensor(0.0, inputs.meta["val"].dtype)
    chosen = work.graph.node("Where", _members(work, inputs, targets, weight, reduction), work.tensor(inputs), zero)
    total = work.graph.node("ReduceSum", chosen, work.graph.constant([1]), keepdims=0)
    return work.graph.node("Neg", total), zero


def _nll_loss_backward(work: Lowering, node: Node) -> str:
    grad, inputs, targets, weight, reduction, *_ = positional(node)
    members = _members(work, inputs, targets, weight, reduction)
    column = work.graph.node("Unsqueeze", work.graph.node("Neg", work.tensor(grad)), work.graph.constant([1]))
    return work.graph.node("Where", members, column, work.tensor(0.0, node.meta["val"].dtype))


def _members(work: Lowering, inputs: Node, targets: Node, weight: Any, reduction: int) -> str:
    """(n, way), true at the target of each row."""
    if weight is not None or reduction != 0:
        raise OnnxNotSupported("only the unreduced, unweighted nll_loss has an ONNX graph")
    column = work.graph.node("Unsqueeze", work.tensor(targets), work.graph.constant([1]))
    return work.graph.node("Equal", column, work.range(0, work.graph.node("Shape", work.tensor(inputs), start=1), 1))


BACKWARD: Mapping[Any, Callable[[Lowering, Node], Value]] = {
    aten.convolution_backward.default: _convolution,
    aten.max_pool2d_with_indices_backward.default: _max_pool,
    aten.threshold_backward.default: _threshold,
    aten.tanh_backward.default: _tanh,
    aten._log_softmax_backward_data.default: _log_softmax,  # noqa: SLF001 - a name of aten
    aten.nll_loss_forward.default: _nll_loss,
    aten.nll_loss_backward.default: _nll_loss_backward,
}
