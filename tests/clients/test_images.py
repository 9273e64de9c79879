"""Images in every form that the client takes, and what travels for each."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot import InvalidInputError
from kshot._images import as_files, read_images, uniform

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def png(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(file: object) -> Image.Image:
    assert isinstance(file, bytes)
    return Image.open(io.BytesIO(file))


def test_files_travel_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(png(Image.new("RGB", (5, 5), "red"), "JPEG"))
    assert read_images(str(path)) == read_images(path) == read_images(path.read_bytes()) == [path.read_bytes()]
    assert read_images([path, path.read_bytes()]) == [path.read_bytes()] * 2


def test_arrays_travel_as_they_are() -> None:
    (only,) = read_images(GRAY)
    assert only is GRAY
    color = np.zeros((3, 4, 3), np.uint8)
    assert len(read_images([GRAY, color])) == 2
    assert [image.shape for image in read_images(color)] == [(3, 4, 3)]


@pytest.mark.parametrize("shape", [(7, 5, 6), (7, 5, 6, 1), (7, 5, 6, 3)])
def test_a_stack_is_its_images(shape: tuple[int, ...]) -> None:
    stack = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = read_images(stack)
    assert len(images) == 7
    assert all(np.array_equal(image, expected) for image, expected in zip(images, stack, strict=True))


@pytest.mark.parametrize(
    "array",
    [
        GRAY.astype(np.float32),
        GRAY > 3,
        np.zeros((0, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 2, 2, 2, 2), np.uint8),
        [np.zeros((3, 4, 7), np.uint8)],
    ],
)
def test_other_arrays_are_refused(array: object) -> None:
    with pytest.raises(InvalidInputError, match="array"):
        read_images(array)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_pil_images_become_png(mode: str) -> None:
    source = Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).convert("L" if mode.startswith("I") else mode)
    source = source.convert(mode) if mode.startswith("I") else source
    result = opened(read_images(source)[0])
    assert result.format == "PNG"
    assert result.size == (6, 4)
    if mode in {"CMYK", "YCbCr", "HSV"}:
        assert result.mode == "RGB"
        assert abs(int(np.asarray(result)[0, 0, 0]) - 200) <= 2
    elif mode.startswith("I"):
        assert int(np.asarray(result)[0, 0]) == 200


def test_only_exif_turns_an_image() -> None:
    """As of a file, in which the server reads nothing else."""
    image = Image.new("L", (3, 2))
    image.info["xmp"] = b'<rdf:Description tiff:Orientation="6"/>'
    assert image.getexif()[0x0112] == 6
    assert opened(read_images(image)[0]).size == (3, 2)


def test_exif_orientation_is_applied_before_it_is_lost() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    file = png(Image.new("L", (6, 4)), "JPEG", exif=exif)
    assert opened(read_images(Image.open(io.BytesIO(file)))[0]).size == (4, 6)


def test_pil_images_that_cannot_be_sent() -> None:
    with pytest.raises(InvalidInputError, match="mode F"):
        read_images(Image.new("F", (2, 2)))
    truncated = Image.open(io.BytesIO(png(Image.fromarray(np.eye(64, dtype=np.uint8)))[:-40]))
    with pytest.raises(InvalidInputError, match="cannot read the PIL image"):
        read_images(truncated)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "not int"),
        ([None], "not NoneType"),
        (["missing.png"], "cannot read the image 'missing.png': No such file"),
        (["nul\0.png"], "cannot read the image"),
        ("https://example.org/a.png", "is a URL"),
        ([("label", "a.png")], "not tuple"),
    ],
)
def test_what_is_no_image(value: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_images(value)  # type: ignore[arg-type]


def test_only_like_gray_or_color_pixels_are_uniform() -> None:
    alpha = np.zeros((3, 4, 4), np.uint8)
    assert uniform([GRAY, GRAY + 1])
    assert uniform([alpha[:, :, :1], alpha[:, :, :1]])
    assert uniform([alpha[:, :, :3]])
    assert not uniform([GRAY, GRAY.T])
    assert not uniform([alpha])
    assert not uniform([GRAY, b"file"])
    assert not uniform([b"file"])
    assert not uniform([])


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 2), (3, 4, 3), (3, 4, 4)])
def test_arrays_as_files_keep_each_value(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    file, same = as_files([array, b"as it is"])
    assert same == b"as it is"
    assert np.array_equal(np.asarray(opened(file)).reshape(shape), array)
