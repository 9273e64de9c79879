"""Images that are taken come out right: each is compared with pixels computed by hand."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.attacks.images.evil import EVIL, chunk, photo, png, save

from kshot_server.errors import InputError
from kshot_server.image_files import open_container
from kshot_server.images import decode_image

from .decoded import HEIGHT, MAX_PIXELS, PHOTO, WIDTH, decode, spec, tiff


@pytest.fixture(autouse=True)
def no_warning_leaks() -> Iterator[None]:
    """Decoding is silent: a warning would be the process's, not the request's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_lossless_files_come_out_as_they_went_in(file_format: str) -> None:
    data = save(photo(HEIGHT, WIDTH), file_format, lossless=True)
    np.testing.assert_array_equal(decode(data), PHOTO)


@pytest.mark.parametrize("options", [{"progressive": True}, {"progressive": False}, {"subsampling": 0}])
def test_jpeg_is_what_every_decoder_sees(options: dict[str, Any]) -> None:
    data = save(photo(HEIGHT, WIDTH), "JPEG", quality=95, **options)
    reference = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    np.testing.assert_array_equal(decode(data), reference)
    assert np.abs(decode(data) - PHOTO).mean() < 6


def test_lossy_webp_is_what_every_decoder_sees() -> None:
    data = save(photo(HEIGHT, WIDTH), "WEBP", quality=90)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int))


def test_the_result_is_of_the_models_size_and_contiguous() -> None:
    got = decode_image(save(photo(50, 70), "PNG"), spec(28, 20, 1), max_pixels=MAX_PIXELS)
    assert (got.shape, got.dtype, got.flags.c_contiguous) == ((28, 20, 1), np.uint8, True)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_image(channels: int) -> None:
    grey = np.asarray(photo(HEIGHT, WIDTH).convert("L")).astype(int)
    got = decode(save(photo(HEIGHT, WIDTH).convert("L"), "PNG"), channels=channels)
    np.testing.assert_array_equal(got, np.repeat(grey[..., None], channels, axis=2))


def test_one_pixel_and_one_row() -> None:
    np.testing.assert_array_equal(decode(png(1, 1, pixels=zlib.compress(b"\0\x90"))), np.full((HEIGHT, WIDTH, 3), 0x90))
    row = zlib.compress(b"\0" + b"\x41" * 65_535)
    np.testing.assert_array_equal(decode(png(65_535, 1, pixels=row)), np.full((HEIGHT, WIDTH, 3), 0x41))


def test_a_constant_image() -> None:
    np.testing.assert_array_equal(decode(png(9, 9), channels=1), np.zeros((HEIGHT, WIDTH, 1)))


def test_a_16_bit_gradient_is_scaled_to_8_bit() -> None:
    wide = np.linspace(0, 65_535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).round().astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    got = decode(png(WIDTH, HEIGHT, depth=16, pixels=zlib.compress(rows)), channels=1)
    np.testing.assert_array_equal(got[..., 0], np.rint(wide / 257).astype(int))


def test_16_bit_colours_are_scaled_to_8_bit() -> None:
    wide = (PHOTO * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    got = decode(png(WIDTH, HEIGHT, depth=16, colour=2, pixels=zlib.compress(rows)))
    np.testing.assert_array_equal(got, PHOTO)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_span_black_to_white(depth: int) -> None:
    levels = 1 << depth
    values = np.arange(8) % levels
    packed = 0
    for value in values:
        packed = packed << depth | int(value)
    rows = (b"\0" + packed.to_bytes(depth, "big")) * 2
    got = decode(png(8, 2, depth=depth, pixels=zlib.compress(rows)), 2, 8, 1)
    np.testing.assert_array_equal(got[0, :, 0], values * 255 // (levels - 1))


def test_a_palette_is_looked_up_before_anything_is_resized() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255]))  # red and blue; between the indices lies nothing
    rows = zlib.compress(b"\0\0\1" * 2)
    got = decode(png(2, 2, palette, colour=3, pixels=rows), 2, 2)
    np.testing.assert_array_equal(got, [[[255, 0, 0], [0, 0, 255]]] * 2)
    halfway = decode(png(2, 2, palette, colour=3, pixels=rows), 2, 1)
    assert halfway[0, 0].tolist() in ([128, 0, 128], [128, 0, 127], [127, 0, 128])


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (colour * alpha + 255.0 * (255 - alpha)) / 255


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(file_format: str) -> None:
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1).astype(int)
    rgba = np.concatenate([PHOTO, alpha], axis=2).astype(np.uint8)
    got = decode(save(Image.fromarray(rgba), file_format, lossless=True, exact=True))
    assert np.abs(got - on_white(PHOTO, alpha)).max() <= 1


def test_grey_with_transparency_is_laid_on_white() -> None:
    rows = zlib.compress(b"\0" + bytes([0, 0, 0, 255, 200, 128, 255, 0]))
    got = decode(png(4, 1, colour=4, pixels=rows), 1, 4, 1)
    assert np.abs(got[0, :, 0] - [255, 0, on_white(np.array(200), np.array(128)), 255]).max() <= 1


def test_a_transparent_palette_entry_is_white() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255])) + chunk(b"tRNS", bytes([0, 255]))
    got = decode(png(2, 1, palette, colour=3, pixels=zlib.compress(b"\0\0\1")), 1, 2)
    assert got[0].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_a_transparent_colour_is_white() -> None:
    grey = chunk(b"tRNS", struct.pack(">H", 7))
    got = decode(png(2, 1, grey, pixels=zlib.compress(b"\0\x07\x08")), 1, 2, 1)
    assert got[0, :, 0].tolist() == [255, 8]
    colour = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    got = decode(png(2, 1, colour, colour=2, pixels=zlib.compress(b"\0\1\2\3\4\5\6")), 1, 2)
    assert got[0].tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("channels", [1, 3])
def test_cmyk_equals_its_rgb(channels: int) -> None:
    flat = np.zeros((16, 16, 4), np.uint8)
    for quadrant, ink in enumerate([(0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255)]):
        flat[quadrant // 2 * 8 :, quadrant % 2 * 8 :][:8, :8] = ink
    rgb = np.array([[255, 0, 0], [0, 255, 0], [255, 255, 255], [0, 0, 0]])
    expected = rgb if channels == 3 else (rgb @ [0.299, 0.587, 0.114])[:, None]
    data = save(Image.fromarray(flat, mode="CMYK"), "JPEG", quality=100)
    got = decode(data, 16, 16, channels)
    centres = got[[4, 4, 12, 12], [4, 12, 4, 12]]
    assert np.abs(centres - expected).max() <= 4


def test_the_cap_is_inclusive_and_counts_pixels() -> None:
    assert decode_image(png(100, 50), spec(), max_pixels=5000).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(InputError) as caught:
        decode_image(png(100, 51), spec(), max_pixels=5000)
    assert (caught.value.code, caught.value.received) == ("image_too_large", "100 x 51")


@pytest.mark.parametrize("width", [0x3FFF, 1000])
@pytest.mark.parametrize("kind", ["VP8 ", "VP8L", "VP8X"])
def test_the_size_of_every_kind_of_webp_is_seen_before_decoding(kind: str, width: int) -> None:
    lossless = kind == "VP8L"
    extra = {"exif": tiff(1)} if kind == "VP8X" else {}
    data = save(Image.new("RGB", (width, 3), "red"), "WEBP", lossless=lossless, **extra)
    assert data[12:16] == kind.encode()
    container = open_container(data)
    assert (container.format, container.width, container.height) == ("WEBP", width, 3)


def test_an_error_says_what_to_do_and_echoes_nothing() -> None:
    for name, evil in EVIL.items():
        with pytest.raises(InputError) as caught:
            decode(evil.make())
        error = caught.value
        assert error.code == evil.code, name
        assert error.detail
        assert error.expected
        assert "hello" not in repr(error.args)


def test_threads_do_not_disturb_one_another() -> None:
    files = [save(photo(HEIGHT, WIDTH).rotate(90 * i), "PNG") for i in range(4)] + [EVIL["cut-png"].make()]

    def work(i: int) -> Any:
        try:
            return decode(files[i % 5])
        except InputError as error:
            return error.code

    expected = [work(i) for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        for i, got in enumerate(pool.map(work, range(200))):
            np.testing.assert_array_equal(got, expected[i % 5])


SEEDS = [
    save(photo(HEIGHT, WIDTH), "PNG"),
    save(photo(HEIGHT, WIDTH), "JPEG", progressive=True),
    save(photo(HEIGHT, WIDTH), "WEBP", exif=tiff(6)),
    save(photo(HEIGHT, WIDTH).quantize(8), "PNG"),
    save(photo(HEIGHT, WIDTH), "WEBP", lossless=True),
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_files_give_pixels_or_an_input_error(data: Any) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "drop", "insert"]))
        if action == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif action == "cut" and at > 0:
            del damaged[at:]
        elif action == "drop":
            del damaged[at : at + data.draw(st.integers(1, 40))]
        else:
            damaged[at:at] = data.draw(st.binary(max_size=20))
        if not damaged:
            break
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outcome(bytes(damaged)) in {"pixels", "invalid_image", "image_too_large", "unsupported_image"}


def outcome(data: bytes) -> str:
    try:
        decode(data)
    except InputError as error:
        return "a warning" if isinstance(error.__cause__, Warning) else error.code
    return "pixels"


@given(st.binary(max_size=100), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x20\0\0\0WEBP"]))
def test_garbage_is_an_input_error(data: bytes, magic: bytes) -> None:
    with pytest.raises(InputError):
        decode(magic + data)
