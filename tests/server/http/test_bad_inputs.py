"""What a stranger may send, through HTTP: the right 4xx, soon, without an echo, and with nothing else disturbed."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

TEACH = "/v1/models/tiny/sessions"
JSON = {"Content-Type": "application/json"}
TENSORS = {"Content-Type": "application/x-safetensors"}
FORM = {"Content-Type": "multipart/form-data; boundary=xx"}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"urn:kshot:problem:{code}"
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["title"]
    assert problem["detail"]
    assert len(answer.content) < 5000
    return problem


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    """20 KB that claim 31,623 x 31,623 pixels of one bit."""
    header = struct.pack(">IIBBBBB", 31_623, 31_623, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9))
        + png_chunk(b"IEND", b"")
    )


def two_frames(kind: str) -> bytes:
    frames = [Image.new("RGB", (12, 12), color) for color in ("red", "blue")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.fixture
def classes(bodies: Callable[..., Any]) -> list[dict[str, str]]:
    """Support of two classes, to which a test adds its bad part."""
    support: list[dict[str, str]] = bodies(labels=("ant", "bee"), shot=1).json["support"]
    return support


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


def test_labels_of_every_kind_in_a_form(client: httpx.Client, image: Callable[[int], bytes]) -> None:
    labels = ['say "hi"', "猫", "a]b", "[", "%41"]
    files = [(f"support[{label}]", ("a.png", image(i), "image/png")) for i, label in enumerate(labels)]
    answer = client.post(TEACH, files=files)
    assert answer.json()["labels"] == sorted(labels)


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


def images() -> dict[str, tuple[bytes, str]]:
    good = saved(Image.new("L", (40, 40), 90), "PNG")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    return {
        "text": (b"this is no image", "invalid_image"),
        "nothing": (b"", "invalid_image"),
        "truncated PNG": (good[:-20], "invalid_image"),
        "truncated JPEG": (saved(noise, "JPEG")[:600], "invalid_image"),
        "truncated WEBP": (saved(noise, "WEBP")[:100], "invalid_image"),
        "PNG of 10^9 pixels": (bomb(), "image_too_large"),
        "PNG over the cap": (saved(Image.new("1", (4001, 1000)), "PNG"), "image_too_large"),
        "animated PNG": (two_frames("PNG"), "unsupported_image"),
        "animated WEBP": (two_frames("WEBP"), "unsupported_image"),
        "GIF": (two_frames("GIF"), "unsupported_image"),
        "TIFF": (saved(noise, "TIFF"), "unsupported_image"),
        "BMP": (saved(noise, "BMP"), "unsupported_image"),
        "PDF": (b"%PDF-1.7\n" + bytes(100), "unsupported_image"),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_image"),
        "zero pixels": (
            b"\x89PNG\r\n\x1a\n"
            + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 0, 0, 0, 0))
            + png_chunk(b"IEND", b""),
            "invalid_image",
        ),
    }


@pytest.mark.parametrize("name", images())
def test_images_that_are_refused(client: httpx.Client, classes: list[dict[str, str]], name: str) -> None:
    data, code = images()[name]
    begun = time.process_time()
    problem = refused(client.post(TEACH, json={"support": [*classes, {"label": "z", "image": b64(data)}]}), 422, code)
    assert "support[2]" in problem["detail"]
    as_file = [("support[a]", b64_decode(classes[0])), ("support[b]", data)]
    refused(client.post(TEACH, files=as_file), 422, code)
    assert time.process_time() - begun < 1


def b64_decode(example: dict[str, str]) -> bytes:
    return base64.b64decode(example["image"])


@pytest.mark.parametrize(
    "text", ["!!!!", "http://example.org/a.png", "file:///etc/passwd", "aGk", "é", "=", "A" * 1_000_001]
)
def test_base64_that_is_none(client: httpx.Client, classes: list[dict[str, str]], text: str) -> None:
    refused(client.post(TEACH, json={"support": [*classes, {"label": "z", "image": text}]}), 422, "invalid_image")


def accepted_images() -> dict[str, bytes]:
    ramp = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (12, 1))
    grey = Image.fromarray(ramp)
    exif = Image.Exif()
    exif[0x0112] = 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow deprecates modes while it still writes them
        return {
            "L": saved(grey, "PNG"),
            "16-bit": saved(Image.fromarray(ramp.astype(np.uint16) * 257), "PNG"),
            "palette": saved(grey.convert("P"), "PNG"),
            "RGBA": saved(grey.convert("RGBA"), "PNG"),
            "RGB": saved(grey.convert("RGB"), "PNG"),
            "WEBP": saved(grey.convert("RGB"), "WEBP", lossless=True),
            "CMYK": saved(grey.convert("CMYK"), "JPEG", quality=100),
            "rotated by EXIF": saved(grey.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif),
        }


def test_images_of_every_sensible_kind_mean_the_same(client: httpx.Client, classes: list[dict[str, str]]) -> None:
    session = client.post(TEACH, json={"support": classes}).json()["id"]
    kinds = accepted_images()
    body = {"queries": [{"image": b64(data)} for data in kinds.values()]}
    predictions = client.post(f"/v1/sessions/{session}/classify", json=body).json()["predictions"]
    for kind, prediction in zip(kinds, predictions, strict=True):
        near = 0.02 if kind == "CMYK" else 1e-5  # JPEG loses a little
        assert prediction["probabilities"] == pytest.approx(predictions[0]["probabilities"], abs=near), kind


@pytest.mark.parametrize("fill", [0, 255])
def test_constant_images_are_no_reason_to_fail(client: httpx.Client, fill: int) -> None:
    example = b64(saved(Image.new("L", (1, 1), fill), "PNG"))
    body = {"support": [{"label": label, "image": example} for label in "ab"], "queries": [{"image": example}]}
    answer = client.post("/v1/models/tiny/classify", json=body)
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["probabilities"] == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-3)


def tensors(**changes: Any) -> bytes:
    parts: dict[str, Any] = {
        "support": np.zeros((4, 12, 12), np.uint8),
        "targets": np.array([0, 1, 0, 1]),
        "labels": ["a", "b"],
    }
    parts |= changes
    labels = parts.pop("labels")
    metadata = {} if labels is None else {"labels": labels if isinstance(labels, str) else json.dumps(labels)}
    return save({name: tensor for name, tensor in parts.items() if tensor is not None}, metadata=metadata)


def lying_header() -> bytes:
    header = b'{"support": {"dtype": "U8", "shape": [1099511627776, 1, 1], "data_offsets": [0, 1099511627776]}}'
    return struct.pack("<Q", len(header)) + header


TENSOR_BODIES = {
    "empty": (b"", "invalid_tensor"),
    "no header": (bytes(8), "invalid_tensor"),
    "header of 2^63": (struct.pack("<Q", 1 << 63) + b"{}", "invalid_tensor"),
    "shape that is a lie": (lying_header(), "invalid_tensor"),
    "cut": (tensors()[:-1], "invalid_tensor"),
    "too long": (tensors() + b"x", "invalid_tensor"),
    "NaN": (tensors(support=np.full((4, 12, 12), np.nan, np.float32)), "invalid_tensor"),
    "int8": (tensors(support=np.zeros((4, 12, 12), np.int8)), "invalid_tensor"),
    "2 axes": (tensors(support=np.zeros((4, 12), np.uint8)), "invalid_tensor"),
    "5 channels": (tensors(support=np.zeros((4, 12, 12, 5), np.uint8)), "invalid_tensor"),
    "no pixels": (tensors(support=np.zeros((4, 0, 12), np.uint8)), "invalid_tensor"),
    "no support": (tensors(support=None), "invalid_tensor"),
    "queries": (tensors(queries=np.zeros((1, 12, 12), np.uint8)), "invalid_tensor"),
    "another name": (tensors(weights=np.zeros(3, np.float32)), "invalid_tensor"),
    "targets of another length": (tensors(targets=np.array([0, 1])), "invalid_targets"),
    "targets below zero": (tensors(targets=np.array([0, 1, 0, -1])), "invalid_targets"),
    "targets above": (tensors(targets=np.array([0, 1, 0, 2**62])), "invalid_targets"),
    "class without examples": (tensors(labels=["a", "b", "c"]), "class_without_examples"),
    "10^4 labels": (tensors(labels=[str(i) for i in range(10_000)]), "class_without_examples"),
    "10^5 labels": (tensors(labels=[str(i) for i in range(100_000)]), "invalid_tensor"),
    "no labels": (tensors(labels=None), "invalid_label"),
    "labels no JSON": (tensors(labels="a,b"), "invalid_label"),
    "a label twice": (tensors(labels=["a", "a"]), "invalid_label"),
    "empty label": (tensors(labels=["", "b"]), "invalid_label"),
    "nothing to learn from": (
        tensors(support=np.zeros((0, 12, 12), np.uint8), targets=np.zeros(0, np.int64), labels=[]),
        "empty_support",
    ),
    "images too large": (tensors(support=np.zeros((4, 4_000_001, 1), np.uint8)), "image_too_large"),
}


@pytest.mark.parametrize("name", TENSOR_BODIES)
def test_tensors(client: httpx.Client, name: str) -> None:
    content, code = TENSOR_BODIES[name]
    refused(client.post(TEACH, content=content, headers=TENSORS), 422, code)


def test_options_in_tensors(client: httpx.Client) -> None:
    parts = {"queries": np.zeros((1, 12, 12), np.uint8)}
    content = save(parts, metadata={"ttl_seconds": "5"})
    session = client.post(TEACH, content=tensors(), headers=TENSORS).json()["id"]
    refused(client.post(f"/v1/sessions/{session}/classify", content=content, headers=TENSORS), 422, "invalid_tensor")
    both = save(
        {"support": np.zeros((2, 12, 12), np.uint8), "targets": np.array([0, 1])},
        metadata={"labels": '["a", "b"]', "ttl_seconds": "soon"},
    )
    refused(client.post(TEACH, content=both, headers=TENSORS), 422, "invalid_body")


def part(name: str, content: bytes = b"x", headers: str = "") -> bytes:
    return f'--xx\r\nContent-Disposition: form-data; name="{name}"\r\n{headers}\r\n'.encode() + content + b"\r\n"


FORMS = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "cut": part("support[a]"),
    "no name": b"--xx\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xx--\r\n",
    "no disposition": b"--xx\r\nContent-Type: image/png\r\n\r\nx\r\n--xx--\r\n",
    "attachment": b'--xx\r\nContent-Disposition: attachment; name="support[a]"\r\n\r\nx\r\n--xx--\r\n',
    "another name": part("file") + b"--xx--\r\n",
    "queries": part("queries") + b"--xx--\r\n",
    "option twice": part("ttl_seconds", b"5") * 2 + b"--xx--\r\n",
    "option of another type": part("ttl_seconds", b"\xb2") + b"--xx--\r\n",
    "unknown durability": part("durability", b"both") + b"--xx--\r\n",
    "name no UTF-8": b'--xx\r\nContent-Disposition: form-data; name="support[\xff]"\r\n\r\nx\r\n--xx--\r\n',
    "10 MB header": part("support[a]", headers="X: " + "y" * 10_000_000 + "\r\n") + b"--xx--\r\n",
    "10^5 parts": part("support[a]") * 100_000 + b"--xx--\r\n",
    "base64 part": part("support[a]", headers="Content-Transfer-Encoding: base64\r\n") + b"--xx--\r\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(client: httpx.Client, name: str) -> None:
    refused(client.post(TEACH, content=FORMS[name], headers=FORM), 422, "invalid_body")


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 71}", "; boundary=yy"])
def test_boundaries(client: httpx.Client, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    refused(client.post(TEACH, content=part("support[a]") + b"--xx--\r\n", headers=headers), 422, "invalid_body")


def test_an_empty_form_has_no_support(client: httpx.Client) -> None:
    refused(
        client.post(TEACH, content=part("durability", b"durable") + b"--xx--\r\n", headers=FORM), 422, "empty_support"
    )


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
