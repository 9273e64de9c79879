"""Raw tensor bodies: what is taken equals what the safetensors library reads; anything else is one InputError."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kshot_server.bodies.tensors import MAX_HEADER_BYTES
from kshot_server.errors import InputError

from .tensor_bodies import BODY, LABELS, QUERIES, SUPPORT, TARGETS, code, entry, parse, raw, saved


def test_a_whole_body() -> None:
    body = parse(BODY)
    assert body.labels == ("cat", "dog", "cat")
    assert body.support is not None
    assert body.queries is not None
    np.testing.assert_array_equal(body.support, SUPPORT[..., None])
    np.testing.assert_array_equal(body.queries, QUERIES)
    assert body.options == {}


def test_only_queries() -> None:
    body = parse(saved(None, queries=QUERIES))
    assert body.labels == ()
    assert body.support is None
    np.testing.assert_array_equal(body.queries, QUERIES)


def test_options_are_handed_on_as_they_are() -> None:
    options = {"ttl_seconds": "60", "durability": "volatile"}
    body = parse(saved(LABELS, options | {"format": "np"}, support=SUPPORT, targets=TARGETS))
    assert body.options == options


def test_a_single_grey_or_coloured_or_transparent_image() -> None:
    for shape in [(1, 2, 2), (1, 2, 2, 1), (1, 2, 2, 3), (1, 2, 2, 4)]:
        body = parse(saved(None, queries=np.zeros(shape, np.uint8)))
        assert body.queries is not None
        assert body.queries.shape == (1, 2, 2, (*shape, 1)[3])


def test_no_images_at_all_is_for_the_caller_to_judge() -> None:
    body = parse(saved([], support=np.zeros((0, 4, 4), np.uint8), targets=np.zeros(0, np.int64)))
    assert body.labels == ()
    assert body.support is not None
    assert body.support.shape == (0, 4, 4, 1)


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            arrays(np.uint8, st.tuples(st.just(n), st.integers(1, 4), st.integers(1, 4))),
            st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1), min_size=n, max_size=n),
        )
    ),
    st.booleans(),
)
def test_any_labelled_support_set_comes_through(support: tuple[np.ndarray, list[str]], queries: bool) -> None:
    pixels, labels = support
    names = sorted(set(labels), reverse=True)
    targets = np.array([names.index(label) for label in labels], dtype=np.int64)
    more = {"queries": pixels} if queries else {}
    body = parse(saved(names, support=pixels, targets=targets, **more))
    assert body.labels == tuple(labels)
    np.testing.assert_array_equal(body.support, pixels[..., None])
    assert (body.queries is not None) == queries


def test_the_arrays_are_views_that_cannot_be_written_to() -> None:
    pixels = np.zeros((8, 500, 500, 3), np.uint8)
    body = saved(None, queries=pixels)
    tracemalloc.start()
    parsed = parse(body, max_pixels=10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert parsed.queries is not None
    assert not parsed.queries.flags.writeable
    assert peak < 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        b"\xff" * 8,
        raw({}),
        raw([]),
        raw(b"null"),
        raw(b"{"),
        raw(b"\xff\xfe{}"),
        raw(b"{}"),
        raw({"__metadata__": {}}),
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 1 << 63) + b"{}",
        raw(b'{"queries": {"dtype": "U8", "shape": [NaN], "data_offsets": [0, 0]}}'),
        raw(b"[" * 900_000),
        raw(b'{"a":' * 200_000),
        raw(b'{"queries":' + b"9" * 5000 + b"}"),
        raw({"queries": entry("U8", [1, 1, 1], 0, 1)}),
        raw({"queries": entry("U8", [1, 1, 1], 0, 1)}, b"ab"),
        raw({"queries": entry("U8", [1, 1, 1], 1, 2)}, b"ab"),
        raw({"queries": entry("U8", [1, 1, 2], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1], 1, 0)}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1], -1, 0)}, b"a"),
        raw({"queries": entry("U8", [1, 1, -1], 0, -1)}, b"a"),
        raw({"queries": entry("U8", [1, 1, True], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1.0], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1, 1, "1"], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1], 0.0, 1)}, b"a"),
        raw({"queries": entry("U8", [1 << 62, 1 << 62, 1 << 62], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [0, 1 << 62, 1], 0, 0)}),
        raw({"queries": entry("U8", [1 << 39, 1 << 39, 1 << 39, 1 << 39], 0, 1 << 39)}, b"a"),
        raw({"queries": entry("U8", [], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1] * 5, 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1, 2], 0, 2)}, b"ab"),
        raw({"queries": entry("U8", [1, 0, 1], 0, 0)}),
        raw({"queries": entry("F32", [1, 1, 1], 0, 4)}, b"\0\0\xc0\x7f"),
        raw({"queries": entry("u8", [1, 1, 1], 0, 1)}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1], 0, 1, extra=1)}, b"a"),
        raw({"queries": {"dtype": "U8", "shape": [1, 1, 1]}}, b"a"),
        raw({"queries": {"dtype": "U8", "shape": [1, 1, 1], "data_offsets": [0]}}, b"a"),
        raw({"queries": {"dtype": "U8", "shape": [1, 1, 1], "data_offsets": [0, 1, 2]}}, b"a"),
        raw({"queries": {"dtype": ["U8"], "shape": [1, 1, 1], "data_offsets": [0, 1]}}, b"a"),
        raw({"queries": {"dtype": "U8", "shape": 1, "data_offsets": [0, 1]}}, b"a"),
        raw({"queries": 7}),
        raw({"queries": entry("U8", [1, 1, 1], 0, 1), "weights": entry("U8", [1], 1, 2)}, b"ab"),
        raw({"queries": entry("U8", [1, 1, 1], 0, 1), "__metadata__": {"ttl": "5"}}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1], 0, 1), "__metadata__": {"ttl_seconds": 5}}, b"a"),
        raw({"queries": entry("U8", [1, 1, 1], 0, 1), "__metadata__": []}, b"a"),
        raw(b'{"queries": %b, "queries": %b}' % ((json.dumps(entry("U8", [1, 1, 1], 0, 1)).encode(),) * 2), b"a"),
        raw({"support": entry("U8", [1, 1, 1], 0, 1), "queries": entry("U8", [1, 1, 1], 0, 1)}, b"a"),
        raw({"support": entry("U8", [1, 1, 1], 0, 1), "queries": entry("U8", [1, 1, 1], 2, 3)}, b"abc"),
        saved(support=SUPPORT),
        saved(targets=TARGETS),
        saved(support=SUPPORT.astype(np.float32), targets=TARGETS),
        saved(support=SUPPORT.astype(np.int8), targets=TARGETS),
        saved(support=SUPPORT, targets=TARGETS.astype(np.int32)),
        saved(support=SUPPORT, targets=TARGETS.astype(np.float64)),
    ],
)
def test_malformed_bodies(body: bytes) -> None:
    assert code(body) == "invalid_tensor"


def test_a_header_over_the_limit() -> None:
    body = raw(json.dumps({"queries": entry("U8", [1, 1, 1], 0, 1)}).encode().ljust(MAX_HEADER_BYTES + 1), b"a")
    assert code(body) == "invalid_tensor"
    at_the_limit = raw(json.dumps({"queries": entry("U8", [1, 1, 1], 0, 1)}).encode().ljust(MAX_HEADER_BYTES), b"a")
    assert parse(at_the_limit).queries is not None


@pytest.mark.parametrize(
    "targets",
    [[1, 0, 2], [1, 0, -1], [0, 1, 2**62], [-(2**63), 0, 1], [1, 0], [1, 0, 1, 0], [[1, 0, 1]], [[1], [0], [1]]],
)
def test_targets_that_are_no_indices(targets: Any) -> None:
    assert code(saved(support=SUPPORT, targets=np.array(targets, dtype=np.int64))) == "invalid_targets"


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "cat"],
        ["cat", ""],
        ["cat", "d\x00g"],
        ["cat", "\ud800"],
        ["cat", "x" * 257],
        ["cat", 1],
        ["cat", None],
        {"cat": 0, "dog": 1},
        "cat",
        None,
    ],
)
def test_labels_that_cannot_be_used(labels: Any) -> None:
    metadata = {"labels": json.dumps(labels)}
    assert code(saved(None, metadata, support=SUPPORT, targets=TARGETS)) == "invalid_label"


@pytest.mark.parametrize("text", ["", "cat,dog", "[" * 100_000, '["cat", "dog"', "NaN", "\ud800"])
def test_labels_that_are_no_json(text: str) -> None:
    header = {
        "support": entry("U8", [1, 1, 1], 0, 1),
        "targets": entry("I64", [1], 1, 9),
        "__metadata__": {"labels": text},
    }
    assert code(raw(header, bytes(9))) == "invalid_label"


def test_labels_are_needed_beside_a_support_set_and_only_there() -> None:
    assert code(saved(None, support=SUPPORT, targets=TARGETS)) == "invalid_label"
    assert code(saved(LABELS, queries=QUERIES)) == "invalid_label"


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["c"] * 100_000, [f"class {i}" for i in range(50_000)]])
def test_labels_without_examples(labels: list[str]) -> None:
    body = saved(labels, support=SUPPORT, targets=TARGETS)
    began = time.process_time()
    assert code(body) in {"class_without_examples", "invalid_tensor"}
    assert time.process_time() - began < 0.1


def test_too_many_pixels() -> None:
    assert code(saved(None, queries=np.zeros((1, 10, 11), np.uint8)), max_pixels=109) == "image_too_large"
    assert parse(saved(None, queries=np.zeros((1, 10, 11), np.uint8)), max_pixels=110).queries is not None


def test_a_wrong_dtype_is_told_what_to_send() -> None:
    with pytest.raises(InputError) as caught:
        parse(saved(None, queries=QUERIES.astype(np.float32) / 255))
    assert caught.value.expected == "U8"
    assert caught.value.action is not None
