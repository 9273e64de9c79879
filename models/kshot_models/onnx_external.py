"""Whether an ONNX model keeps tensors outside its own bytes: read from the wire format, without the onnx package.

A tensor that is stored elsewhere names a path or an address in memory; an artifact's digests vouch for neither. So the
messages of onnx.proto that can hold tensors are walked, and nothing else is decoded.

Reference: onnx/onnx.proto3 (IR version 13), protobuf's encoding specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

__all__ = ["MalformedModel", "has_external_data"]

Span: TypeAlias = tuple[int, int]

# Message -> field number -> the message that it holds, for all ways to a tensor.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5


class MalformedModel(ValueError):  # noqa: N818 - reads as the state it names, like the tree of errors.py
    """The bytes are no protobuf message."""


def has_external_data(data: bytes) -> bool:
    """Whether a tensor of a serialized ModelProto is stored elsewhere, in whatever graph, attribute or function.

    Raises:
        MalformedModel: the bytes are no protobuf message.
    """
    waiting: list[tuple[str, Span]] = [("model", (0, len(data)))]
    while waiting:
        message, span = waiting.pop()
        inside = _FIELDS[message]
        for number, value in _fields(data, span):
            if message == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
                return True
            if number in inside and isinstance(value, tuple):
                waiting.append((inside[number], value))
    return False


def _fields(data: bytes, span: Span) -> Iterator[tuple[int, int | Span]]:
    """The fields of a message by number: the value of a varint, where a counted field stands, 0 for fixed sizes."""
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        value: int | Span = 0
        if kind == _VARINT:
            value, at = _varint(data, at, end)
        elif kind == _COUNTED:
            size, at = _varint(data, at, end)
            value, at = (at, at + size), at + size
        elif kind in {_EIGHT_BYTES, _FOUR_BYTES}:
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise MalformedModel(f"wire type {kind} at byte {at}")
        if at > end or number == 0:
            raise MalformedModel(f"a field runs past its message at byte {end}" if at > end else f"field 0 at {at}")
        yield number, value


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise MalformedModel(f"a number is cut off at byte {end}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedModel(f"a number of more than ten bytes ends at byte {at}")
