"""Tensor bodies that nobody thought of: whatever comes, a body or an InputError."""

from __future__ import annotations

import struct
from typing import Any

import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot_server.errors import InputError

from .tensor_bodies import BODY, entry, parse, raw

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**64)
    | st.floats()
    | st.sampled_from(["U8", "I64", "F32", "", "dtype"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "labels", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


ENTRIES = st.builds(
    entry,
    st.sampled_from(["U8", "I64", "F32"]),
    st.lists(st.integers(-1, 4), max_size=5),
    st.integers(-1, 30),
    st.integers(-1, 30),
)


HEADERS = st.dictionaries(
    st.sampled_from(["support", "targets", "queries", "__metadata__", "other"]),
    ENTRIES | JSON | st.just({"labels": '["a", "b"]'}) | st.just({"labels": '["a"]'}),
    max_size=4,
)


CODES = {"invalid_tensor", "invalid_targets", "invalid_label", "class_without_examples", "image_too_large"}


def check(body: bytes) -> None:
    """It raises InputError of a known code, or the safetensors library reads the same from it."""
    try:
        parsed = parse(body)
    except InputError as error:
        found = error.code
    else:
        found = "parsed"
        theirs = dict(safetensors.deserialize(body))
        for name, ours in (("support", parsed.support), ("queries", parsed.queries)):
            assert (name in theirs) == (ours is not None)
            assert ours is None or ours.tobytes() == bytes(theirs[name]["data"])
        assert parsed.support is None or len(parsed.labels) == len(parsed.support)
    assert found in {"parsed", *CODES}


@settings(max_examples=300)
@given(HEADERS, st.binary(max_size=30))
def test_any_header(header: Any, data: bytes) -> None:
    check(raw(header, data))


@settings(max_examples=300)
@given(st.data())
def test_mutated_bodies(data: Any) -> None:
    damaged = bytearray(BODY)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(damaged) - 1, 320)))
        kind = data.draw(st.sampled_from(["set", "cut", "drop", "insert"]))
        if kind == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "drop":
            del damaged[at + 1 : at + data.draw(st.integers(2, 20))]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.sampled_from([b"0", b"-", b'"', b"[", b"9" * 20, b"\xff", b",", b"{}"]))
        elif at > 0:
            del damaged[at:]
    check(bytes(damaged))


@given(st.binary(max_size=100))
def test_garbage(data: bytes) -> None:
    check(data)
    check(struct.pack("<Q", len(data)) + data)
