"""What an encoder costs: the floating-point operations of its matrix products and convolutions, of one run.

The model is run once with the operands and results of these operations as further outputs, so that sizes which only
running tells are known too. Operations inside of branches and loops are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kshot_models.onnx_session import open_session

__all__ = ["count_flops"]

_COUNTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
Shape = tuple[int, ...]


def count_flops(data: bytes, feed: Mapping[str, NDArray[Any]], where: str) -> float:
    """Floating-point operations of one run.

    Args:
        data: a serialized model.
        feed: its inputs.
        where: its place, for messages.

    Raises:
        GraphInvalid: it cannot be run.
    """
    model = onnx.load_from_string(data)
    nodes = [node for node in model.graph.node if node.op_type in _COUNTED and node.domain in {"", "ai.onnx"}]
    shapes: dict[str, Shape] = {each.name: tuple(each.dims) for each in model.graph.initializer}
    shapes |= {name: values.shape for name, values in feed.items()}
    there = {each.name for each in model.graph.output}
    wanted = dict.fromkeys(name for node in nodes for name in (*node.input[:2], node.output[0]) if name not in shapes)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
    session = open_session(model.SerializeToString(), where, "cpu")
    results = session.run(list(wanted), dict(feed)) if wanted else []
    shapes |= {name: np.shape(values) for name, values in zip(wanted, results, strict=True)}
    return float(sum(_flops(node, shapes) for node in nodes))


def _flops(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    left, right, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        return 2 * math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(left) * math.prod(right[1:])
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(out) * (left[0] if turned else left[-1])
