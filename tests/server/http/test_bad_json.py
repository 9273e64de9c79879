"""JSON, content types and sizes that a stranger may send: the right 4xx, soon, without an echo."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .refused import refused

TEACH = "/v1/models/tiny/sessions"


JSON = {"Content-Type": "application/json"}


BODIES = {
    "empty": (b"", 400, "invalid_json"),
    "cut": (b'{"support": [', 400, "invalid_json"),
    "no UTF-8": (b"\xff\xfe{}", 400, "invalid_json"),
    "two documents": (b"{}{}", 400, "invalid_json"),
    "NaN": (b'{"support": NaN}', 400, "invalid_json"),
    "a key twice": (b'{"support": [], "support": []}', 400, "invalid_json"),
    "deep array": (b"[" * 100_000, 400, "invalid_json"),
    "deep object": (b'{"a":' * 100_000, 400, "invalid_json"),
    "deep and closed": (b"[" * 50_000 + b"]" * 50_000, 400, "invalid_json"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(100), 400, "invalid_json"),
    "huge integer": (b'{"ttl_seconds": ' + b"9" * 10_000 + b"}", 400, "invalid_json"),
    "null": (b"null", 422, "invalid_body"),
    "string": (b'"support"', 422, "invalid_body"),
    "array": (b"[]", 422, "invalid_body"),
    "number": (b"12", 422, "invalid_body"),
    "number out of range": (b"1e309", 400, "invalid_json"),
    "empty object": (b"{}", 422, "invalid_body"),
    "support of another type": (b'{"support": {"a": 1}}', 422, "invalid_body"),
    "items of another type": (b'{"support": [1, "a", null, []]}', 422, "invalid_body"),
    "no support": (b'{"support": []}', 422, "empty_support"),
    "queries too": (b'{"support": [], "queries": []}', 422, "invalid_body"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(client: httpx.Client, name: str) -> None:
    content, status, code = BODIES[name]
    begun = time.process_time()
    refused(client.post(TEACH, content=content, headers=JSON), status, code)
    assert time.process_time() - begun < 1


def test_a_wrong_field_is_named_and_not_echoed(client: httpx.Client, classes: list[dict[str, str]]) -> None:
    secret = "s3cret" * 1000
    body = {"support": [*classes, {"label": 5, "image": secret}, {"label": "x", secret: 1}], "ttl_seconds": secret}
    problem = refused(client.post(TEACH, json=body), 422, "invalid_body")
    assert ["support", 2, "label"] in [error["loc"] for error in problem["errors"]]
    assert secret not in json.dumps(problem)


def test_a_million_errors_are_not_told(client: httpx.Client) -> None:
    begun = time.process_time()
    for body in ({"support": [0] * 100_000}, {"support": [], **{f"k{i}": i for i in range(10_000)}}):
        problem = refused(client.post(TEACH, json=body), 422, "invalid_body")
        assert 1 <= len(problem["errors"]) <= 20
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": -5},
        {"ttl_seconds": "60"},
        {"ttl_seconds": 1.5},
        {"ttl_seconds": True},
        {"durability": "eternal"},
        {"durability": ["durable"]},
        {"inner_steps": 10**6},
        {"model": "other"},
        {"a\ud800b": 1},
    ],
)
def test_wrong_options(client: httpx.Client, classes: list[dict[str, str]], fields: dict[str, Any]) -> None:
    content = json.dumps({"support": classes, **fields}).encode()
    refused(client.post(TEACH, content=content, headers=JSON), 422, "invalid_body")


@pytest.mark.parametrize("label", ["", "x" * 257, "a\0b", "a\nb", "\x7f", "\ud800"])
def test_labels_that_cannot_be_used(client: httpx.Client, classes: list[dict[str, str]], label: str) -> None:
    content = json.dumps({"support": [*classes, {**classes[0], "label": label}]}).encode()
    refused(client.post(TEACH, content=content, headers=JSON), 422, "invalid_label")


@pytest.mark.parametrize(
    "label", ["x" * 256, "猫", "a b", "'; DROP TABLE", "../..", "<script>", "__proto__", "é", "🙂", "]"]
)
def test_labels_of_every_kind(client: httpx.Client, classes: list[dict[str, str]], label: str) -> None:
    answer = client.post(TEACH, json={"support": [*classes, {**classes[0], "label": label}]})
    assert answer.status_code in {200, 201}
    assert label in answer.json()["labels"]


def test_counts_over_the_limits(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    image = bodies().json["support"][0]["image"]
    for labels, code in (
        (["a"] * 3, "single_class"),
        (["a", "b", "c", "d", "e", "f"], "too_many_classes"),
        (["a", "b"] * 16, "too_many_examples"),
        ([str(i) for i in range(100_000)], "too_many_examples"),
    ):
        body = {"support": [{"label": label, "image": image if len(labels) < 100 else "AAAA"} for label in labels]}
        problem = refused(client.post(TEACH, json=body), 422, code)
        assert problem["received"]
        assert problem["expected"]
    session = client.post(TEACH, json=bodies().json).json()["id"]
    over = bodies(labels=("d", "e", "f"), shot=1).json
    refused(client.post(f"/v1/sessions/{session}/support", json=over), 422, "too_many_classes")
    over = bodies(labels=("ant",), shot=25).json
    refused(client.post(f"/v1/sessions/{session}/support", json=over), 422, "too_many_examples")
    for count, code in ((0, "empty_queries"), (51, "too_many_queries"), (100_000, "too_many_queries")):
        queries = {"queries": [{"image": "AAAA"}] * count}
        refused(client.post(f"/v1/sessions/{session}/classify", json=queries), 422, code)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        ";",
        "image/png",
        "\xff",
    ],
)
def test_content_types(client: httpx.Client, content_type: str) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")} if content_type else {}
    problem = refused(client.post(TEACH, content=b"{}", headers=headers), 415, "unsupported_media_type")  # type: ignore[arg-type] # httpx takes bytes
    assert "application/json" in problem["expected"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json;"])
def test_content_types_are_read_as_they_are_meant(
    client: httpx.Client, classes: list[dict[str, str]], content_type: str
) -> None:
    content = json.dumps({"support": classes}).encode()
    assert client.post(TEACH, content=content, headers={"Content-Type": content_type}).status_code in {200, 201}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_compressed_bodies_are_not_read(client: httpx.Client, encoding: str) -> None:
    answer = client.post(TEACH, content=bytes(100), headers={**JSON, "Content-Encoding": encoding})
    refused(answer, 415, "unsupported_media_type")


def test_bodies_over_the_limit(application: Callable[..., httpx.Client]) -> None:
    client = application(max_body_bytes=10_000)
    refused(client.post(TEACH, content=bytes(10_001), headers=JSON), 413, "payload_too_large")
    refused(client.post(TEACH, content=b" " * 10_000, headers=JSON), 400, "invalid_json")
