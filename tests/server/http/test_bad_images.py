"""Images that a stranger may send, through HTTP: refused with the right code, or right."""

from __future__ import annotations

import base64
import struct
import time
import warnings
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from .refused import b64, refused, saved

TEACH = "/v1/models/tiny/sessions"


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
