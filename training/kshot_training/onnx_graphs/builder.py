"""Building an ONNX graph: each node and each constant once, and only those that an output needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["OPSET", "GraphBuilder"]

OPSET = 18  # the first in which all reductions take their axes alike; runtimes have had it since 2023
_IR_VERSION = 8  # the oldest that this operator set goes with


class GraphBuilder:
    """Collects nodes; values are names.

    The same operation on the same values is made once: inner steps ask for much again, such as one-hot targets.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[Any, tuple[str, ...]] = {}
        self._constants: dict[Any, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, dtype: np.dtype[Any], shape: Sequence[int | str]) -> str:
        """Declare an input; an axis with a name instead of a size is open."""
        self._inputs.append(_declared(name, dtype, shape))
        return name

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A constant tensor."""
        array: NDArray[Any] = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"c{len(self._constants)}")
        return self._constants[key].name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """An operation of one output."""
        return self.nodes(op, *inputs, outputs=1, **attributes)[0]

    def nodes(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """An operation of several outputs."""
        key = (op, inputs, outputs, tuple((name, _hashable(value)) for name, value in sorted(attributes.items())))
        if key not in self._made:
            names = tuple(f"v{self._count + i}" for i in range(outputs))
            self._count += outputs
            self._nodes.append(helper.make_node(op, inputs, names, **attributes))
            self._made[key] = names
        return self._made[key]

    def model(
        self,
        outputs: Mapping[str, tuple[str, np.dtype[Any], Sequence[int | str]]],
        *,
        name: str,
        about: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The finished model.

        Args:
            outputs: name -> the value, its dtype and shape.
            name: of the graph.
            about: metadata.
        """
        # A graph's output may be none of its inputs or constants, and no value may be two outputs.
        tail = [helper.make_node("Identity", [value], [output]) for output, (value, _, _) in outputs.items()]
        needed = {value for value, _, _ in outputs.values()}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                # Places of maxima that no gradient asks for: ONNX Runtime pools several times as fast without them.
                while node.output[-1] not in needed:
                    node.output.pop()
                kept.append(node)
                needed.update(node.input)
        graph = helper.make_graph(
            [*reversed(kept), *tail],
            name,
            self._inputs,
            [_declared(output, dtype, shape) for output, (_, dtype, shape) in outputs.items()],
            [constant for constant in self._constants.values() if constant.name in needed],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
        helper.set_model_props(model, dict(about))
        onnx.checker.check_model(model, full_check=True)
        return model


def _declared(name: str, dtype: np.dtype[Any], shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), list(shape))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
