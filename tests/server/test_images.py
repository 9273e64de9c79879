"""Images that are taken come out right: each is compared with pixels computed by hand."""

from __future__ import annotations

import base64
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
from tests.attacks.images.evil import EVIL, chunk, jpeg_segments, photo, png, save

from kshot_models.manifest import InputSpec
from kshot_models.pixels import orientation, to_pixels
from kshot_server.errors import InputError
from kshot_server.image_files import open_container
from kshot_server.images import decode_base64, decode_image

MAX_PIXELS = 4_000_000
HEIGHT, WIDTH = 24, 32


def spec(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> InputSpec:
    values = (0.0,) * channels, (1.0,) * channels
    return InputSpec(height=height, width=width, channels=channels, mean=values[0], std=values[1])


def decode(data: bytes, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Any:
    return decode_image(data, spec(height, width, channels), max_pixels=MAX_PIXELS).astype(int)


PHOTO = np.asarray(photo(HEIGHT, WIDTH)).astype(int)


@pytest.fixture(autouse=True)
def no_warning_leaks() -> Iterator[None]:
    """Decoding is silent: a warning would be the process's, not the request's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(warning.message) for warning in caught] == []


# -- formats --


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


# -- depths and colours --


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


# -- orientation --

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def tiff(orientation_value: int, order: str = "<", kind: int = 3) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    other = struct.pack(order + "HHII", 0x010F, 2, 4, 0)
    entry = struct.pack(order + "HHIHH", 0x0112, kind, 1, orientation_value, 0)
    return mark + struct.pack(order + "IH", 8, 2) + other + entry + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(file_format: str, value: int, order: str) -> None:
    # The file holds the picture turned; EXIF says how to turn it back.
    stored = photo(HEIGHT, WIDTH)
    data = save(stored, file_format, lossless=True, quality=100, exif=b"Exif\0\0" + tiff(value, order))
    plain = decode(save(stored, file_format, lossless=True, quality=100))
    expected = TURNED[value](plain)
    np.testing.assert_array_equal(decode(data, *expected.shape[:2]), expected)


def with_xmp(file_format: str) -> bytes:
    """A file that lies on its side if XMP is believed."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    if file_format == "PNG":
        plain = save(photo(HEIGHT, WIDTH), "PNG")
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
        return plain[:33] + chunk(b"iTXt", text) + plain[33:]
    return save(photo(HEIGHT, WIDTH), file_format, lossless=True, quality=100, xmp=xmp)


def with_raw_profile() -> bytes:
    """As ImageMagick wrote EXIF into PNG before there was a chunk for it."""
    plain = save(photo(HEIGHT, WIDTH), "PNG")
    profile = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(tiff(6)), tiff(6).hex().encode())
    return plain[:33] + chunk(b"tEXt", profile) + plain[33:]


TURNED_ELSEWHERE = {
    **{f"XMP in {file_format}": with_xmp(file_format) for file_format in ("PNG", "JPEG", "WEBP")},
    "raw profile": with_raw_profile(),
    "EXIF of a type that it may not have": save(photo(HEIGHT, WIDTH), "WEBP", lossless=True, exif=tiff(6, kind=4)),
    "EXIF": save(photo(HEIGHT, WIDTH), "WEBP", lossless=True, exif=tiff(6)),
}


@pytest.mark.parametrize("name", TURNED_ELSEWHERE)
def test_training_and_serving_turn_a_file_alike(name: str) -> None:
    """Training opens files with PIL, which believes more than EXIF; `to_pixels` makes both the same."""
    data = TURNED_ELSEWHERE[name]
    served = decode(data)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.getexif().get(0x0112) == 6
        np.testing.assert_array_equal(to_pixels(opened, spec()), served)
    if name != "EXIF":
        untagged = decode(save(photo(HEIGHT, WIDTH), "JPEG", lossless=True, quality=100)) if "JPEG" in name else PHOTO
        np.testing.assert_array_equal(served, untagged)


def test_exif_of_a_png_may_follow_its_pixels() -> None:
    data = save(photo(HEIGHT, WIDTH), "PNG")
    end = data.index(b"IEND") - 4
    data = data[:end] + chunk(b"eXIf", tiff(3)) + data[end:]
    np.testing.assert_array_equal(decode(data), PHOTO[::-1, ::-1])


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"garbage garbage garbage",
        tiff(0),
        tiff(9),
        tiff(6)[:-8],
        b"II*\0" + b"\xff" * 4,
        b"II*\0\x08\0\0\0\xff\xff" + tiff(6)[10:-4],
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 4, 1, 6),
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 2, 6, 6),
        b"MM\0*" + tiff(6)[4:],
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x010F, 2, 4, 0) + bytes(4),
    ],
)
def test_damaged_exif_turns_nothing_and_costs_nothing(exif: bytes) -> None:
    for data in (
        with_exif_png(exif),
        with_exif_jpeg(exif),
    ):
        assert decode(data, 8, 8, 1).shape == (8, 8, 1)
    if b"\x12\x01\x03\0\x01\0\0\0" not in exif[:30]:
        assert orientation(exif) == 1


def with_exif_png(exif: bytes) -> bytes:
    return png(8, 8, chunk(b"eXIf", exif))


def with_exif_jpeg(exif: bytes) -> bytes:
    plain = save(photo(8, 8), "JPEG")
    return plain[:2] + jpeg_segments((0xE1, b"Exif\0\0" + exif)) + plain[2:]


@given(st.binary(max_size=60))
def test_any_exif_gives_an_orientation(data: bytes) -> None:
    for exif in (data, b"II*\0\x08\0\0\0" + data, b"MM\0*\0\0\0\x08" + data):
        assert 1 <= orientation(exif) <= 8
    assert orientation(None) == 1


# -- metadata --


def test_metadata_of_any_size_is_left_out_and_changes_nothing() -> None:
    huge = zlib.compress(bytes(50_000_000))
    profile = b"x\0\0" + huge
    text = b"k\0\1\0\0\0" + huge
    chunks = [
        chunk(b"iCCP", profile),
        chunk(b"iTXt", text),
        chunk(b"zTXt", b"k\0\0" + huge),
        chunk(b"gAMA", b"\0\0\0\1"),
    ]
    rows = zlib.compress(b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in PHOTO))
    np.testing.assert_array_equal(decode(png(WIDTH, HEIGHT, *chunks, colour=2, pixels=rows)), PHOTO)
    plain = save(photo(HEIGHT, WIDTH), "JPEG")
    icc = [(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 255]) + bytes(65_000)) for i in range(50)]
    junk = [
        (0xED, b"Photoshop 3.0\0" + bytes(60_000)),
        (0xFE, b"\xff\xda" * 1000),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" * 9),
    ]
    np.testing.assert_array_equal(decode(plain[:2] + jpeg_segments(*icc, *junk) + plain[2:]), decode(plain))


def test_a_jpeg_with_a_preview_and_a_second_picture_shows_the_first() -> None:
    preview = save(photo(8, 8).rotate(180), "JPEG")
    plain = save(photo(HEIGHT, WIDTH), "JPEG")
    multi = (0xE2, b"MPF\0II*\0\x08\0\0\0\0\0")
    data = plain[:2] + jpeg_segments((0xE1, b"Exif\0\0" + preview), multi) + plain[2:] + preview
    np.testing.assert_array_equal(decode(data), decode(plain))


def test_bytes_behind_the_image_do_not_matter() -> None:
    for file_format in ("PNG", "JPEG", "WEBP"):
        data = save(photo(HEIGHT, WIDTH), file_format)
        np.testing.assert_array_equal(decode(data + b"\xff\xda\xff\xd9 and more" * 50), decode(data))


def test_webp_metadata_is_left_out() -> None:
    data = save(photo(HEIGHT, WIDTH), "WEBP", lossless=True, icc_profile=bytes(5000), xmp=b"<x/>" * 999, exif=tiff(1))
    assert len(open_container(data).data) < len(data) - 8000
    np.testing.assert_array_equal(decode(data), PHOTO)


# -- refusals --


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


# -- base64 --


@given(
    st.binary(max_size=200),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "data:image/png;base64,", "DATA:;base64,"]),
)
def test_base64_in_all_its_spellings(data: bytes, url_safe: bool, padded: bool, prefix: str) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    if not padded:
        text = text.rstrip("=")
    assert decode_base64(prefix + text) == data
    lines = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    assert decode_base64(f"{prefix} {lines}\n") == data


@pytest.mark.parametrize(
    "text",
    [
        "!",
        "a",
        "abc$",
        "ab=c",
        "a===",
        "====",
        "aGVsbG8=aGVsbG8=",
        "aGVsbG8=x",
        "é",
        "\ud800",
        "cat.png",
        "data:image/png,xyz",
        "aGV\0sbG8=",
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_base64(text)
    assert caught.value.code == "invalid_image"
    assert text not in repr(caught.value.args) or len(text) < 5


@pytest.mark.parametrize("link", ["http://a/b.png", "HTTPS://a/b", "file:///etc/passwd", "s3://bucket/key", "ftp://x"])
def test_links_are_not_followed_and_the_error_says_so(link: str) -> None:
    with pytest.raises(InputError, match="links are not followed") as caught:
        decode_base64(link)
    assert link not in repr(caught.value.args)


def test_nothing_is_nothing() -> None:
    assert decode_base64("") == b""
    with pytest.raises(InputError, match="empty"):
        decode(b"")


@given(st.text(max_size=100))
def test_any_text_is_bytes_or_an_input_error(text: str) -> None:
    try:
        kind = type(decode_base64(text)).__name__
    except InputError as error:
        kind = error.code
    assert kind in {"bytes", "invalid_image"}
