"""From a graph of aten operations to ONNX: each node by its row in operations.py.

tensor of the FX graph    -> one value
open size (SymInt)        -> a value of shape (1,), so that sizes are joined to shapes by Concat
several outputs           -> a tuple of values
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from kshot_training.errors import OnnxNotSupported
from kshot_training.onnx_graphs.builder import GraphBuilder
from kshot_training.onnx_graphs.tracing import Traced, shape_of

__all__ = ["Lowering", "Value", "lower", "numpy_dtype", "positional"]

Value: TypeAlias = str | tuple[str, ...]


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The numpy dtype of a torch one."""
    return np.dtype(torch.empty((), dtype=dtype).numpy().dtype)


def positional(node: Node, *defaults: Any) -> tuple[Any, ...]:
    """The positional arguments of an aten operation; `defaults` are of the last ones, where they were left out."""
    schema = node.target._schema  # type: ignore[union-attr] # noqa: SLF001 - how an aten operation tells its arguments
    missing = sum(not argument.kwarg_only for argument in schema.arguments) - len(node.args)
    return (*node.args, *(defaults[-missing:] if missing else ()))


class Lowering:
    """What a row of the table works with: the builder, and the values of the nodes before."""

    def __init__(self, module: GraphModule) -> None:
        self.graph = GraphBuilder()
        self._module = module
        self._values: dict[Node, Value] = {}

    def remember(self, node: Node, value: Value) -> None:
        """Keep what a node became."""
        self._values[node] = value

    def tensor(self, argument: Any, dtype: torch.dtype | None = None) -> str:
        """The value of a tensor or number, cast to `dtype`."""
        if not isinstance(argument, Node):
            return self.graph.constant(argument, numpy_dtype(dtype or torch.float32))
        value = self._values[argument]
        assert isinstance(value, str)
        if dtype is None or argument.meta["val"].dtype == dtype:
            return value
        return self.cast(value, dtype)

    def outputs(self, argument: Node) -> tuple[str, ...]:
        """The values of a node that has several."""
        value = self._values[argument]
        assert isinstance(value, tuple)
        return value

    def cast(self, value: str, dtype: torch.dtype) -> str:
        """A value in another dtype."""
        return self.graph.node("Cast", value, to=int(onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(dtype))))

    def attribute(self, node: Node) -> str:
        """A constant that the traced function made."""
        assert isinstance(node.target, str)
        values: Tensor = getattr(self._module, node.target)
        return self.graph.constant(values.numpy(), values.numpy().dtype)

    def size(self, size: Any) -> str:
        """A size, open or not, as a value of shape (1,)."""
        return str(self._values[size]) if isinstance(size, Node) else self.graph.constant([size])

    def shape(self, sizes: Sequence[Any]) -> str:
        """Sizes, some of them open, as one value."""
        if not any(isinstance(size, Node) for size in sizes):
            return self.graph.constant(list(sizes))
        return self.graph.node("Concat", *map(self.size, sizes), axis=0)

    def range(self, start: Any, end: Any, step: Any) -> str:
        """start, start + step, ...; each a number, an open size or a value of shape (1,)."""
        ends = [each if isinstance(each, str) else self.size(each) for each in (start, end, step)]
        return self.graph.node("Range", *(self.graph.node("Reshape", each, self.shape([])) for each in ends))

    def reshape(self, value: str, sizes: Sequence[Any]) -> str:
        """A value in another shape. One open size is left to the runtime to find out."""
        unknown = [i for i, size in enumerate(sizes) if isinstance(size, Node) or size == -1]
        if len(unknown) == 1:
            sizes = [-1 if i in unknown else size for i, size in enumerate(sizes)]
        return self.graph.node("Reshape", value, self.shape(sizes))


def lower(traced: Traced, *, name: str, about: Mapping[str, str]) -> onnx.ModelProto:
    """Turn a traced function into a checked ONNX model.

    Args:
        traced: the function.
        name: of the graph.
        about: metadata.

    Raises:
        OnnxNotSupported: an operation has no row.
    """
    from kshot_training.onnx_graphs.operations import ROWS  # noqa: PLC0415 - the rows need the class above

    work = Lowering(traced.module)
    names = iter(traced.inputs)
    results: list[Node] = []
    for node in traced.module.graph.nodes:
        match node.op:
            case "placeholder":
                values = node.meta["val"]
                dtype = numpy_dtype(values.dtype)
                work.remember(node, work.graph.input(next(names), dtype, shape_of(values)))
            case "get_attr":
                work.remember(node, work.attribute(node))
            case "output":
                results = list(node.args[0])
            case _ if node.target in ROWS:
                work.remember(node, ROWS[node.target](work, node))
            case _:
                raise OnnxNotSupported(
                    f"{node.target} has no row in onnx_graphs/operations.py, which the ONNX graph of this model needs; "
                    "add one, or serve the artifact with torch"
                )
    outputs = {
        output: (work.tensor(node), numpy_dtype(node.meta["val"].dtype), shape_of(node.meta["val"]))
        for output, node in zip(traced.outputs, results, strict=True)
    }
    return work.graph.model(outputs, name=name, about=about)
