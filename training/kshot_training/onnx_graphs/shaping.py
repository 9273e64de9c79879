"""The table from aten operations to ONNX, continued: what changes shapes, cuts, joins and makes tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from kshot_training.errors import OnnxNotSupported
from kshot_training.onnx_graphs.lowering import Lowering, numpy_dtype, positional

__all__ = ["SHAPING"]

aten = torch.ops.aten
_END = np.iinfo(np.int64).max


def _rank(node: Any) -> int:
    rank: int = node.meta["val"].ndim
    return rank


def _view(work: Lowering, node: Node) -> str:
    return work.reshape(work.tensor(node.args[0]), _sizes(node.args[1]))


def _sizes(sizes: Any) -> Sequence[Any]:
    return list(sizes)


def _unsqueeze(work: Lowering, node: Node) -> str:
    value, axis = positional(node)
    return work.graph.node("Unsqueeze", work.tensor(value), work.graph.constant([axis % _rank(node)]))


def _squeeze(work: Lowering, node: Node) -> str:
    value, axes = positional(node)
    axes = [axes] if isinstance(axes, int) else list(axes)
    before = value.meta["val"].ndim
    if before - _rank(node) != len(axes):  # an axis of another size than 1 stays
        raise OnnxNotSupported("squeezing axes of which some are not 1 has no ONNX row")
    return work.graph.node("Squeeze", work.tensor(value), work.graph.constant([axis % before for axis in axes]))


def _permute(work: Lowering, node: Node) -> str:
    value, axes = positional(node)
    rank = _rank(node)
    return work.graph.node("Transpose", work.tensor(value), perm=[axis % rank for axis in axes])


def _expand(work: Lowering, node: Node) -> str:
    value, sizes = positional(node)[:2]
    # ONNX broadcasts both ways, so "as it is" is a 1.
    return work.graph.node(
        "Expand", work.tensor(value), work.shape([1 if size == -1 else size for size in _sizes(sizes)])
    )


def _select(work: Lowering, node: Node) -> str:
    value, axis, index = positional(node)
    return work.graph.node("Gather", work.tensor(value), work.graph.constant(index), axis=axis)


def _slice(work: Lowering, node: Node) -> str:
    value, axis, start, end, step = positional(node, 0, None, None, 1)
    edges = (work.size(0 if start is None else start), work.size(_END if end is None else end))
    return work.graph.node("Slice", work.tensor(value), *edges, work.size(axis), work.size(step))


def _flip(work: Lowering, node: Node) -> str:
    value, axes = positional(node)
    count = len(_sizes(axes))
    constant = work.graph.constant
    edges = constant([-1] * count), constant([np.iinfo(np.int64).min] * count)
    return work.graph.node("Slice", work.tensor(value), *edges, constant(_sizes(axes)), constant([-1] * count))


def _cat(work: Lowering, node: Node) -> str:
    parts, axis = positional(node, 0)
    return work.graph.node("Concat", *(work.tensor(part, node.meta["val"].dtype) for part in parts), axis=axis)


def _pad(work: Lowering, node: Node) -> str:
    value, pads, fill = positional(node, 0)
    # Pairs from the last axis on, where ONNX wants all befores, then all afters.
    pairs = [(0, 0)] * (_rank(node) - len(pads) // 2) + list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    edges = work.graph.constant([before for before, _ in pairs] + [after for _, after in pairs])
    return work.graph.node("Pad", work.tensor(value), edges, work.tensor(fill, node.meta["val"].dtype))


def _cast(work: Lowering, node: Node) -> str:
    return work.tensor(node.args[0], node.meta["val"].dtype)


def _size(work: Lowering, node: Node) -> str:
    value, axis = positional(node)
    return work.graph.node("Shape", work.tensor(value), start=axis, end=axis + 1)


def _full(work: Lowering, node: Node) -> str:
    sizes, fill = positional(node)
    return _filled(work, node, fill, work.shape(_sizes(sizes)))


def _full_like(work: Lowering, node: Node) -> str:
    like, fill = positional(node)
    return _filled(work, node, fill, work.graph.node("Shape", work.tensor(like)))


def _filled(work: Lowering, node: Node, fill: Any, shape: str) -> str:
    value = work.graph.constant(fill, numpy_dtype(node.meta["val"].dtype))
    return value if _rank(node) == 0 else work.graph.node("Expand", value, shape)


def _scalar(work: Lowering, node: Node) -> str:
    return work.graph.constant(node.args[0], numpy_dtype(node.meta["val"].dtype))


def _arange(work: Lowering, node: Node) -> str:
    start, end, step = (0, *node.args, 1) if node.target is aten.arange.default else positional(node, 1)
    return work.range(start, end, step)


def _ones(work: Lowering, node: Node) -> str:
    return _filled(work, node, 1, work.graph.node("Shape", work.tensor(node.args[0])))


def _transpose(work: Lowering, node: Node) -> str:
    return work.graph.node("Transpose", work.tensor(node.args[0]), perm=[1, 0])


SHAPING: Mapping[Any, Callable[[Lowering, Node], str]] = {
    aten.view.default: _view,
    aten._unsafe_view.default: _view,  # noqa: SLF001 - a name of aten
    aten.reshape.default: _view,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.permute.default: _permute,
    aten.t.default: _transpose,
    aten.expand.default: _expand,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.flip.default: _flip,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten._to_copy.default: _cast,  # noqa: SLF001 - a name of aten
    aten.sym_size.int: _size,
    aten.full.default: _full,
    aten.full_like.default: _full_like,
    aten.scalar_tensor.default: _scalar,
    aten.ones_like.default: _ones,
    aten.arange.default: _arange,
    aten.arange.start_step: _arange,
}
