"""The table from aten operations to ONNX: what arithmetic, reductions and layers become. Shapes are in shaping.py,
gradients in backward.py.

A row is given the work so far and the node of the FX graph, and answers the value that the node became.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch.fx import Node

from kshot_training.errors import OnnxNotSupported
from kshot_training.onnx_graphs.backward import BACKWARD
from kshot_training.onnx_graphs.lowering import Lowering, Value, positional
from kshot_training.onnx_graphs.shaping import SHAPING

__all__ = ["ROWS"]

aten = torch.ops.aten
Row: TypeAlias = Callable[[Lowering, Node], Value]


def _dtype(node: Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _unary(op: str, work: Lowering, node: Node) -> str:
    return work.graph.node(op, work.tensor(node.args[0], _dtype(node)))


def _binary(op: str, work: Lowering, node: Node) -> str:
    """Both operands in the dtype of the result; `alpha` is not used by what we trace."""
    if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode"):
        raise OnnxNotSupported(f"{node.target} with {dict(node.kwargs)} has no ONNX row")
    left, right = (work.tensor(argument, _dtype(node)) for argument in node.args[:2])
    return work.graph.node(op, left, right)


def _comparison(op: str, work: Lowering, node: Node) -> str:
    known = [argument.meta["val"].dtype for argument in node.args if isinstance(argument, Node)]
    common = known[0] if len(known) == 1 else torch.promote_types(*known)
    left, right = (work.tensor(argument, common) for argument in node.args[:2])
    return work.graph.node(op, left, right)


def _sizes(op: str, work: Lowering, node: Node) -> str:
    """Arithmetic on open sizes."""
    return work.graph.node(op, *map(work.size, node.args))


def _power(work: Lowering, node: Node) -> str:
    base, exponent = work.tensor(node.args[0], _dtype(node)), node.args[1]
    if exponent == 1:  # what the gradient of a square leaves
        return base
    if exponent == 2:  # a product is exact and quick, and a power is neither
        return work.graph.node("Mul", base, base)
    return work.graph.node("Pow", base, work.tensor(exponent, _dtype(node)))


def _affine(work: Lowering, node: Node) -> str:
    """addmm: bias + left @ right, without factors."""
    if node.kwargs:
        raise OnnxNotSupported(f"{node.target} with {dict(node.kwargs)} has no ONNX row")
    bias, left, right = map(work.tensor, positional(node))
    return work.graph.node("Add", work.graph.node("MatMul", left, right), bias)


def _rsqrt(work: Lowering, node: Node) -> str:
    return work.graph.node("Reciprocal", work.graph.node("Sqrt", work.tensor(node.args[0])))


def _clamp(work: Lowering, node: Node) -> str:
    value, dtype = work.tensor(node.args[0], _dtype(node)), _dtype(node)
    low, high = (*node.args[1:], None, None)[:2]
    value = value if low is None else work.graph.node("Max", value, work.tensor(low, dtype))
    return value if high is None else work.graph.node("Min", value, work.tensor(high, dtype))


def _reduction(op: str, work: Lowering, node: Node) -> str:
    value = work.tensor(node.args[0], _dtype(node))
    axes, keep = (*positional(node, 0)[1:], None, 0)[:2]
    names = [work.graph.constant(list(axes))] if axes else []
    return work.graph.node(op, value, *names, keepdims=int(keep))


def _convolution(work: Lowering, node: Node) -> str:
    inputs, weight, bias, stride, padding, dilation, transposed, output_padding, groups = positional(node)
    operands = [work.tensor(each) for each in (inputs, weight, bias) if each is not None]
    attributes: dict[str, Any] = {
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }
    if transposed:
        attributes["output_padding"] = list(output_padding)
    return work.graph.node("ConvTranspose" if transposed else "Conv", *operands, **attributes)


def _max_pool(work: Lowering, node: Node) -> tuple[str, ...]:
    """Values, and their places counted over the whole tensor, where torch counts inside each plane."""
    inputs, kernel, stride, padding, dilation, ceil_mode = positional(node, [], [0, 0], [1, 1], 0)
    return work.graph.nodes(
        "MaxPool",
        work.tensor(inputs),
        outputs=2,
        kernel_shape=list(kernel),
        strides=list(stride or kernel),
        pads=[*padding, *padding],
        dilations=list(dilation),
        ceil_mode=int(ceil_mode),
    )


def _masked_fill(work: Lowering, node: Node) -> str:
    value, mask, fill = positional(node)
    return work.graph.node("Where", work.tensor(mask), work.tensor(fill, _dtype(node)), work.tensor(value))


def _sum_of_products(work: Lowering, node: Node) -> str:
    """addcmul: base + left * right, without factors."""
    if node.kwargs:
        raise OnnxNotSupported(f"{node.target} with {dict(node.kwargs)} has no ONNX row")
    base, left, right = map(work.tensor, positional(node))
    return work.graph.node("Add", base, work.graph.node("Mul", left, right))


def _dot(work: Lowering, node: Node) -> str:
    return work.graph.node("ReduceSum", work.graph.node("Mul", *map(work.tensor, positional(node))), keepdims=0)


def _item(work: Lowering, node: Node) -> str:
    source, index = cast("tuple[Node, int]", node.args)
    return work.outputs(source)[index]


def _where(work: Lowering, node: Node) -> str:
    condition, *values = positional(node)
    return work.graph.node("Where", work.tensor(condition), *(work.tensor(each, _dtype(node)) for each in values))


def _softmax(op: str, work: Lowering, node: Node) -> str:
    return work.graph.node(op, work.tensor(node.args[0]), axis=node.args[1])


def _same(work: Lowering, node: Node) -> str:
    return work.tensor(node.args[0])


def _table(kinds: Mapping[str, list[Any]], row: Callable[[str, Lowering, Node], Value]) -> dict[Any, Row]:
    return {target: partial(row, op) for op, targets in kinds.items() for target in targets}


_UNARY = {
    "Abs": [aten.abs.default],
    "Cos": [aten.cos.default],
    "Erf": [aten.erf.default],
    "Exp": [aten.exp.default],
    "Log": [aten.log.default],
    "Neg": [aten.neg.default],
    "Not": [aten.logical_not.default],
    "Reciprocal": [aten.reciprocal.default],
    "Relu": [aten.relu.default],
    "Sigmoid": [aten.sigmoid.default],
    "Sign": [aten.sign.default],
    "Sin": [aten.sin.default],
    "Sqrt": [aten.sqrt.default],
    "Tanh": [aten.tanh.default],
}
_BINARY = {
    "Add": [aten.add.Tensor, aten.add.Scalar],
    "Div": [aten.div.Tensor, aten.div.Scalar],
    "Max": [aten.maximum.default],
    "MatMul": [aten.mm.default, aten.bmm.default],
    "Min": [aten.minimum.default],
    "Mul": [aten.mul.Tensor, aten.mul.Scalar],
    "And": [aten.logical_and.default],
    "Sub": [aten.sub.Tensor, aten.sub.Scalar],
}
_COMPARISON = {
    "Equal": [aten.eq.Tensor, aten.eq.Scalar],
    "Greater": [aten.gt.Tensor, aten.gt.Scalar],
    "GreaterOrEqual": [aten.ge.Tensor, aten.ge.Scalar],
    "Less": [aten.lt.Tensor, aten.lt.Scalar],
    "LessOrEqual": [aten.le.Tensor, aten.le.Scalar],
}
_REDUCTIONS = {
    "ReduceMax": [aten.amax.default],
    "ReduceMean": [aten.mean.dim, aten.mean.default],
    "ReduceMin": [aten.amin.default],
    "ReduceSum": [aten.sum.dim_IntList, aten.sum.default],
}
_SIZES = {"Add": [operator.add], "Div": [operator.floordiv], "Mul": [operator.mul], "Sub": [operator.sub]}

ROWS: Mapping[Any, Row] = {
    **_table(_UNARY, _unary),
    **_table(_BINARY, _binary),
    **_table(_COMPARISON, _comparison),
    **_table(_REDUCTIONS, _reduction),
    **_table(_SIZES, _sizes),
    **_table({"LogSoftmax": [aten._log_softmax.default], "Softmax": [aten._softmax.default]}, _softmax),  # noqa: SLF001 - names of aten
    aten.pow.Tensor_Scalar: _power,
    aten.addmm.default: _affine,
    aten.rsqrt.default: _rsqrt,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.where.self: _where,
    aten.convolution.default: _convolution,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.masked_fill.Scalar: _masked_fill,
    aten.addcmul.default: _sum_of_products,
    aten.dot.default: _dot,
    aten.clone.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.lift_fresh_copy.default: _same,
    operator.getitem: _item,
    **SHAPING,
    **BACKWARD,
}
