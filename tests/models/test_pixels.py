"""Conversion of every kind of image that PIL opens, against numpy."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kshot_models.load import normalise
from kshot_models.manifest import InputSpec
from kshot_models.pixels import resize_pixels, to_pixels

GREY = InputSpec(height=6, width=8, channels=1, mean=(0.5,), std=(0.25,))
COLOUR = InputSpec(height=6, width=8, channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)


def test_same_size_is_untouched() -> None:
    assert np.array_equal(to_pixels(Image.fromarray(RAMP), GREY)[..., 0], RAMP)
    assert np.array_equal(to_pixels(Image.fromarray(RGB), COLOUR), RGB)


def test_grey_becomes_three_equal_channels() -> None:
    assert np.array_equal(to_pixels(Image.fromarray(RAMP), COLOUR), np.repeat(RAMP[..., None], 3, -1))


def test_colour_becomes_luma() -> None:
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_pixels(Image.fromarray(RGB), GREY)[..., 0] - luma).max() <= 1


def test_16_bit_is_scaled_not_clipped() -> None:
    wide = RAMP.astype(np.uint16) * 257
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "PNG")
    assert np.array_equal(to_pixels(Image.open(file), GREY)[..., 0], RAMP)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 6), (10, 20, 30, 0)).convert(mode)
    assert (to_pixels(image, COLOUR) == 255).all()


def test_a_palette_is_looked_up_not_interpolated() -> None:
    image = Image.fromarray((np.indices((6, 8)).sum(0) % 2).astype(np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    expected = np.where((np.indices((6, 8)).sum(0) % 2)[..., None] == 0, [255, 0, 0], [0, 0, 255])
    assert np.array_equal(to_pixels(image, COLOUR), expected)


def test_cmyk_and_one_bit() -> None:
    assert np.array_equal(to_pixels(Image.fromarray(RGB).convert("CMYK"), COLOUR), RGB)
    bits = RAMP > 100
    assert np.array_equal(to_pixels(Image.fromarray(bits), GREY)[..., 0], bits * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((6, 8), np.uint8)
    upright[:2, :3] = 250
    inverse = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
               6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(inverse[orientation](upright)))
    exif = image.getexif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    assert np.array_equal(to_pixels(Image.open(file), GREY)[..., 0], upright)


def test_box_resize_is_the_mean_of_each_block() -> None:
    big = np.kron(RAMP, np.ones((3, 3))).astype(np.uint8)
    spec = GREY.model_copy(update={"resize": "box"})
    assert np.array_equal(to_pixels(Image.fromarray(big), spec)[..., 0], RAMP)


@pytest.mark.parametrize("shape", [(2, 12, 16), (2, 12, 16, 1), (2, 12, 16, 3), (2, 12, 16, 4), (2, 6, 8)])
@pytest.mark.parametrize("spec", [GREY, COLOUR])
def test_raw_pixels_go_the_way_of_images(shape: tuple[int, ...], spec: InputSpec) -> None:
    raw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    out = resize_pixels(raw, spec)
    assert out.shape == (2, 6, 8, spec.channels)
    assert np.array_equal(
        out[1], to_pixels(Image.fromarray(raw[1].squeeze(-1) if raw[1].shape[-1] == 1 else raw[1]), spec)
    )


@pytest.mark.parametrize("shape", [(6, 8), (2, 6, 8, 2), (1, 2, 6, 8, 3)])
def test_raw_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected pixels of shape"):
        resize_pixels(np.zeros(shape, np.uint8), GREY)


def test_normalise_is_per_channel_and_channels_first() -> None:
    out = normalise(torch.from_numpy(RGB), COLOUR, dtype=torch.float64)
    expected = (RGB / 255 - np.array(COLOUR.mean)) / np.array(COLOUR.std)
    np.testing.assert_allclose(out.numpy(), expected.transpose(2, 0, 1), atol=1e-12)
