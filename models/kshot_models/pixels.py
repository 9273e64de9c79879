"""From an image to a network's pixels. Training and serving both come through here, so that they see the same ones.

    any image -> EXIF orientation applied -> alpha composited on white -> 8 bit L or RGB -> stretched to height x width

The orientation is that of the file's EXIF structure and of nothing else, as in browsers. PIL would also believe XMP and
a text of PNG; the server reads neither, and both must see the same picture.

No torch here. Safety (formats, pixel caps, truncation) is the caller's: these functions trust their argument.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kshot_models.manifest import InputSpec

__all__ = ["at_levels", "orientation", "pixel_levels", "resize_pixels", "to_pixels"]

_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_pixels(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Convert one image.

    Args:
        image: of any mode that PIL reads: 1, L, LA, P, RGB(A), CMYK, I;16, I, F.
        spec: the artifact's input.

    Returns:
        uint8 (height, width, channels).
    """
    image.load()  # of a PNG, the EXIF structure may stand behind the pixels
    turn = _UPRIGHT.get(orientation(image.info.get("exif")))
    plain = _to_8_bit(image if turn is None else image.transpose(turn))
    mode = "L" if spec.channels == 1 else "RGB"
    # Resize in the target mode: one channel costs a third, and a palette must never be interpolated. What is as wanted
    # stays: of a small image, PIL's copies take as long as its decoder.
    plain = plain if plain.mode == mode else plain.convert(mode)
    size = spec.width, spec.height
    sized = plain if plain.size == size else plain.resize(size, _FILTERS[spec.resize])
    pixels = np.asarray(sized, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(spec.height, spec.width, spec.channels))


def resize_pixels(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Convert raw 8-bit pixels by the same rule as images.

    Args:
        pixels: uint8 (n, h, w) or (n, h, w, c) with c of 1, 3 or 4 (the fourth is alpha).
        spec: the artifact's input.

    Returns:
        uint8 (n, height, width, channels).

    Raises:
        ValueError: for another number of axes or channels.
    """
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[-1] not in {1, 3, 4}:
        raise ValueError(f"expected pixels of shape (n, h, w) or (n, h, w, 1|3|4), got {pixels.shape}")
    if pixels.shape[1:] == (spec.height, spec.width, spec.channels):
        return np.ascontiguousarray(pixels)
    out = np.empty((len(pixels), spec.height, spec.width, spec.channels), np.uint8)
    for i, one in enumerate(pixels):
        out[i] = to_pixels(Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one), spec)
    return out


def pixel_levels(spec: InputSpec) -> NDArray[np.float32]:
    """What each value of a pixel becomes for a network, (channels, 256): (value / 255 - mean) / std.

    A table is sooner asked than arithmetic done; `load.normalise` does it for tensors.
    """
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(each, np.float32)[:, None] for each in (spec.mean, spec.std))
    levels: NDArray[np.float32] = (values - mean) / std
    return levels


def at_levels(pixels: NDArray[np.uint8], levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What pixels (..., channels) become for a network, by the table of `pixel_levels`."""
    found: NDArray[np.float32]
    found = levels[0].take(pixels) if len(levels) == 1 else levels[np.arange(len(levels)), pixels]
    return found


def orientation(exif: bytes | None) -> int:
    """The orientation that an EXIF structure (TIFF) tells, 1 to 8; 1, upright, when there is none or it is damaged.

    Reference: TIFF 6.0, section 2; CIPA DC-008 (Exif 2.32), 4.6.4.
    """
    exif = b"" if exif is None else exif.removeprefix(b"Exif\0\0")  # as JPEG has it in front
    if exif[:4] not in {b"II*\0", b"MM\0*"}:
        return 1
    order = "<" if exif[:1] == b"I" else ">"
    try:
        (position,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, position)
        for entry in range(count):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", exif, position + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if (kind, values) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}:
        # PIL clips these to 255 on convert("L"); the files that have them (16-bit PNG) mean 65535 as white.
        wide = np.asarray(image, dtype=np.float64)
        return Image.fromarray(np.clip(np.rint(wide / 257.0), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image
