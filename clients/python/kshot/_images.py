"""Images in the forms that people have them, and the two forms in which they travel.

    str, Path       a PNG, JPEG or WEBP file: its bytes, as they are
    bytes           the same, already read
    PIL.Image       PNG, after its EXIF orientation has been applied
    numpy uint8     (h, w) or (h, w, c): as it is while all in the request have one shape, else PNG
    numpy stack     (n, h, w) or (n, h, w, c): n images

The server decodes, checks and resizes, by the model's own rule; nothing is resized here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ._errors import InvalidInputError

__all__ = ["ImageInput", "ImagesInput", "Picture", "as_files", "is_one_image", "read_images", "uniform"]

Pixels: TypeAlias = NDArray[np.uint8]

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
"""One image."""

ImagesInput: TypeAlias = "ImageInput | Iterable[ImageInput]"
"""One image, several, or a numpy stack of them."""

Picture: TypeAlias = "bytes | Pixels"
"""One image ready to travel: the bytes of an image file, or pixels (h, w) or (h, w, c)."""

# How PIL's modes enter a PNG. Palettes, alpha and 16 bits stay: the server has one rule for each.
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


def is_one_image(value: object) -> bool:
    """Whether a value is a single image rather than several."""
    if isinstance(value, np.ndarray):
        return value.ndim == 2 or (value.ndim == 3 and value.shape[-1] <= 4)
    return isinstance(value, str | os.PathLike | bytes | Image.Image)


def read_images(images: ImagesInput) -> list[Picture]:
    """All images of an argument, ready to travel.

    Raises:
        InvalidInputError: one of them is no image, cannot be read, or is an array of another dtype or rank.
    """
    if is_one_image(images):
        return [_read_image(images)]
    if isinstance(images, np.ndarray):
        if images.ndim not in {3, 4}:
            raise InvalidInputError(f"an array of images has the shape (n, h, w) or (n, h, w, c), not {images.shape}")
        return [_checked_pixels(image) for image in images]
    if not isinstance(images, Iterable):
        raise InvalidInputError(_unknown(images))
    return [_read_image(image) for image in images]


def uniform(pictures: Sequence[Picture]) -> bool:
    """Whether all are pixels of one shape that a tensor body can hold: gray or three channels."""
    shapes = {picture.shape if isinstance(picture, np.ndarray) else None for picture in pictures}
    if len(shapes) != 1 or None in shapes:
        return False
    (shape,) = shapes
    return shape is not None and (len(shape) == 2 or shape[2] in {1, 3})


def as_files(pictures: Iterable[Picture]) -> list[bytes]:
    """Each picture as the bytes of an image file; pixels become PNG."""
    return [picture if isinstance(picture, bytes) else _png(_from_pixels(picture)) for picture in pictures]


def _read_image(image: object) -> Picture:
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        return _checked_pixels(image)
    if isinstance(image, Image.Image):
        return _png(_upright(image))
    if isinstance(image, str | os.PathLike):
        return _read_file(os.fspath(image))
    raise InvalidInputError(_unknown(image))


def _read_file(path: str) -> bytes:
    if path.startswith(("http://", "https://", "data:")):
        raise InvalidInputError(f"{path[:80]!r} is a URL: kshot fetches none. Download the image and pass its path")
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(f"cannot read the image {path!r}: {reason}") from error


def _checked_pixels(image: NDArray[Any]) -> Pixels:
    if image.dtype != np.uint8:
        raise InvalidInputError(
            f"an image array has dtype uint8 with values from 0 to 255, not {image.dtype}. "
            "From floats between 0 and 1: (image * 255).round().astype(np.uint8)"
        )
    if image.ndim not in {2, 3} or (image.ndim == 3 and image.shape[2] not in {1, 2, 3, 4}) or 0 in image.shape:
        raise InvalidInputError(
            f"an image array has the shape (h, w) or (h, w, c) with c from 1 to 4, not {image.shape}"
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        image = image.copy()
        for elsewhere in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
            image.info.pop(elsewhere, None)  # PIL believes these, too; of a file, the server reads EXIF alone
        upright = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(f"cannot read the PIL image: {error}") from error
    if upright.mode == "F":
        raise InvalidInputError("a PIL image of floats (mode F) has no agreed range. Convert it to mode L first")
    return upright if upright.mode in _PNG_MODES else upright.convert("I;16" if upright.mode == "I" else "RGB")


def _from_pixels(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Level 1: on a local network the time to compress costs more than the bytes do.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _unknown(image: object) -> str:
    kind = f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")
    return f"an image is a path, bytes, a PIL.Image or a uint8 numpy array, not {kind}"
