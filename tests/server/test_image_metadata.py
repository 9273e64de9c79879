"""What a file says beside its pixels: EXIF turns an image, everything else is left out."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.attacks.images.evil import chunk, jpeg_segments, photo, png, save

from kshot_models.pixels import orientation, to_pixels
from kshot_server.image_files import open_container

from .decoded import HEIGHT, PHOTO, WIDTH, decode, spec, tiff


@pytest.fixture(autouse=True)
def no_warning_leaks() -> Iterator[None]:
    """Decoding is silent: a warning would be the process's, not the request's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(warning.message) for warning in caught] == []


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
