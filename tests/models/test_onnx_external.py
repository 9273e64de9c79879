"""Tensors outside of a model's bytes are found wherever they can stand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kshot_models.errors import ExternalData, GraphInvalid
from kshot_models.onnx_external import MalformedModel, has_external_data
from kshot_models.onnx_session import check_self_contained

TENSOR = numpy_helper.from_array(np.ones((2, 3), np.float32), "values")


def elsewhere(location: str = "../secret.bin") -> TensorProto:
    tensor = TensorProto(name="values", data_type=TensorProto.FLOAT, dims=[2, 3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def model_of(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph)


def initializer(tensor: TensorProto) -> onnx.ModelProto:
    return model_of(onnx.GraphProto(initializer=[tensor]))


def constant(tensor: TensorProto) -> onnx.ModelProto:
    return model_of(onnx.GraphProto(node=[helper.make_node("Constant", [], ["c"], value=tensor)]))


def branch(tensor: TensorProto) -> onnx.ModelProto:
    inner = onnx.GraphProto(name="inner", initializer=[tensor])
    outer = onnx.GraphProto(name="outer", node=[helper.make_node("If", ["c"], ["d"], then_branch=inner)])
    return model_of(onnx.GraphProto(node=[helper.make_node("If", ["c"], ["d"], then_branch=outer)]))


def lists_of_an_attribute(tensor: TensorProto) -> onnx.ModelProto:
    attribute = onnx.AttributeProto(name="many", type=onnx.AttributeProto.TENSORS, tensors=[TENSOR, tensor])
    return model_of(onnx.GraphProto(node=[onnx.NodeProto(op_type="X", attribute=[attribute])]))


def sparse(tensor: TensorProto) -> onnx.ModelProto:
    return model_of(onnx.GraphProto(sparse_initializer=[onnx.SparseTensorProto(values=tensor)]))


def function(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of(onnx.GraphProto())
    model.functions.add(name="f", node=[helper.make_node("Constant", [], ["c"], value=tensor)])
    return model


def training(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of(onnx.GraphProto())
    model.training_info.add().algorithm.initializer.append(tensor)
    return model


PLACES = [initializer, constant, branch, lists_of_an_attribute, sparse, function, training]


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found_in_every_place(place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    assert has_external_data(place(elsewhere()).SerializeToString())
    assert not has_external_data(place(TENSOR).SerializeToString())


def test_a_location_without_the_flag_and_the_flag_without_a_location_count_too() -> None:
    without_flag, without_location = elsewhere(), elsewhere()
    without_flag.ClearField("data_location")
    without_location.ClearField("external_data")
    for tensor in (without_flag, without_location):
        assert has_external_data(initializer(tensor).SerializeToString())


def test_a_second_graph_behind_the_first_is_read_as_protobuf_reads_it() -> None:
    first, second = (initializer(tensor).SerializeToString() for tensor in (TENSOR, elsewhere()))
    assert has_external_data(first + second)


def test_what_is_no_message_is_told(make_encoder: Callable[..., bytes]) -> None:
    whole = make_encoder()
    assert not has_external_data(whole)
    for data in (b"no graph", whole[:-1], b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 11, b"\x02\x00"):
        with pytest.raises(MalformedModel):
            has_external_data(data)
        with pytest.raises(GraphInvalid, match=r"here is no ONNX model"):
            check_self_contained(data, "here")


def test_an_address_in_memory_is_refused() -> None:
    data = initializer(elsewhere("*/_ORT_MEM_ADDR_/*")).SerializeToString()
    with pytest.raises(ExternalData, match="here stores tensors outside of itself"):
        check_self_contained(data, "here")
