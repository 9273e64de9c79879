"""Request bodies, read back by other parsers than ours."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import safetensors.numpy

from kshot._bodies import MAX_PARTS, AdaptOptions, encode, split
from kshot._support import Example

A, B = np.zeros((2, 3), np.uint8), np.full((2, 3), 7, np.uint8)
OPTIONS = AdaptOptions(60, "volatile")


def test_pixels_of_one_shape_become_tensors() -> None:
    body = encode([Example("b", A), Example("a", B), Example("b", B)], [A[:, :, None]], options=OPTIONS)
    assert body.content_type == "application/x-safetensors"
    tensors = safetensors.numpy.load(body.content)
    assert tensors["targets"].tolist() == [1, 0, 1]
    assert tensors["targets"].dtype == np.int64
    assert np.array_equal(tensors["support"], np.stack([A, B, B]))
    assert tensors["queries"].shape == (1, 2, 3, 1)
    size = int.from_bytes(body.content[:8], "little")
    assert size % 8 == 0
    metadata = json.loads(body.content[8 : 8 + size])["__metadata__"]
    assert metadata == {"labels": '["a", "b"]', "ttl_seconds": "60", "durability": "volatile"}


def test_queries_alone_have_no_metadata() -> None:
    body = encode(queries=[A, B])
    assert list(safetensors.numpy.load(body.content)) == ["queries"]


def test_files_become_multipart_without_their_names() -> None:
    body = encode([Example("ä cat", b"\x89PNG\r\n--kshot"), Example("dog", A)], [b"query"], options=OPTIONS)
    kind, _, boundary = body.content_type.partition("; boundary=")
    assert kind == "multipart/form-data"
    parts = body.content.split(f"--{boundary}".encode())
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    assert b'name="ttl_seconds"\r\n\r\n60\r\n' in parts[1]
    assert b'name="durability"\r\n\r\nvolatile\r\n' in parts[2]
    assert 'name="support[ä cat]"; filename="0"'.encode() in parts[3]
    assert parts[3].endswith(b"\r\n\r\n\x89PNG\r\n--kshot\r\n")
    assert b"\x89PNG" in parts[4]
    assert b'name="queries"; filename="2"' in parts[5]


@pytest.mark.parametrize("label", ['say "hi"', "a]b", "line\nbreak", "", " padded", "100%22", "back\\slash", "\ud800"])
def test_labels_that_no_field_name_carries_become_json(label: str) -> None:
    body = encode([Example(label, b"one")], [b"two"], options=OPTIONS)
    assert body.content_type == "application/json"
    assert json.loads(body.content) == {
        "support": [{"label": label, "image": base64.b64encode(b"one").decode()}],
        "queries": [{"image": base64.b64encode(b"two").decode()}],
        "ttl_seconds": 60,
        "durability": "volatile",
    }


def test_more_parts_than_servers_take_become_json() -> None:
    examples = [Example("a", b"x")] * (MAX_PARTS + 1)
    document = json.loads(encode(examples).content)
    assert len(document["support"]) == MAX_PARTS + 1
    assert "queries" not in document
    assert list(json.loads(encode(queries=[b"x"] * (MAX_PARTS + 1)).content)) == ["queries"]
    assert encode(examples[1:]).content_type.startswith("multipart/")


def test_options_that_are_not_given_are_not_sent() -> None:
    assert AdaptOptions().items() == {}
    assert AdaptOptions(ttl_seconds=5).items() == {"ttl_seconds": 5}


def test_split_keeps_order_count_and_bytes() -> None:
    queries = [np.full((10, 10), i, np.uint8) for i in range(7)]
    by_count = list(split(queries, most=3, max_bytes=10**6))
    assert [len(batch) for batch in by_count] == [3, 3, 1]
    assert [int(image[0, 0]) for batch in by_count for image in batch] == list(range(7))  # type: ignore[index]
    assert [len(batch) for batch in split(queries, most=100, max_bytes=250)] == [2, 2, 2, 1]
    assert [len(batch) for batch in split(queries, most=100, max_bytes=1)] == [1] * 7
    assert list(split([], most=3, max_bytes=10)) == []


def test_split_counts_parts_and_the_bytes_around_files() -> None:
    files = [b"x" * 100] * (MAX_PARTS + 1)
    assert [len(batch) for batch in split(files, most=10**6, max_bytes=10**9)] == [MAX_PARTS, 1]
    (first, *_) = split(files, most=10**6, max_bytes=1000)
    assert len(encode(queries=first).content) <= 1000 + 100


def test_split_turns_mixed_queries_into_files() -> None:
    (batch,) = split([A, b"file", B], most=10, max_bytes=10**6)
    assert all(isinstance(picture, bytes) for picture in batch)
