"""From an image that a client sent to a model's pixels.

    base64 text -> decode_base64 -> file -> open_container   what it claims to be, without metadata (image_files.py)
                                         -> size against the cap, before anything is allocated
                                         -> PIL decodes it
                                         -> to_pixels        the rules that training uses too (kshot_models.pixels)

Safe to call from several threads at once. Every way of failing is one InputError.
"""

from __future__ import annotations

import binascii
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from kshot_models.manifest import InputSpec
from kshot_models.pixels import to_pixels
from kshot_server.errors import InputError
from kshot_server.image_files import Container, open_container

__all__ = ["decode_base64", "decode_image"]

# The decoders by name, not through Image.open: that one tries 43 formats, and warns of large images though our own cap
# has been checked.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_WHITESPACE = b" \t\r\n\f\v"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_DATA_URI = re.compile(rb"data:[^,]{0,256},", re.IGNORECASE)
_LINK = re.compile(rb"(https?|ftp|file|s3|gs):", re.IGNORECASE)


def decode_image(data: bytes, spec: InputSpec, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG or WEBP file to a model's input size.

    Args:
        data: the file.
        spec: the model's input.
        max_pixels: most pixels (width x height) that are decoded.

    Returns:
        uint8 (spec.height, spec.width, spec.channels).

    Raises:
        InputError: `invalid_image`: no image, cut off or damaged; `image_too_large`: more pixels than the cap;
            `unsupported_image`: another format, or an animation.
    """
    container = open_container(data)
    _check_size(container, max_pixels)
    try:
        return _decode(container, spec)
    except MemoryError:  # pragma: no cover - the cap was kept, so it is the machine's fault and not the sender's
        raise
    except Exception as error:  # decoders fail in any class (struct.error, KeyError, ...): the bytes' fault
        raise InputError(
            "invalid_image",
            f"The image begins like a {container.format} file but cannot be decoded: it is cut off or damaged.",
            expected="a whole PNG, JPEG or WEBP file",
            action="Open it in an image editor and save it again.",
        ) from error


def decode_base64(text: str) -> bytes:
    """Decode a file from base64, as clients write it.

    The standard and the URL-safe alphabet, with or without padding, with white space and with a `data:...;base64,`
    prefix are all taken. Anything else is an error: never are characters skipped.

    Raises:
        InputError: `invalid_image`: it is no base64. Links are not followed.
    """
    try:
        data = text.encode("ascii")
    except UnicodeEncodeError:
        raise _no_base64("a character outside of ASCII") from None
    if _LINK.match(data):
        raise InputError(
            "invalid_image",
            "The image is a link, and links are not followed.",
            expected="the bytes of the file in base64",
            received="a URL",
            action="Download the file and send its bytes.",
        )
    prefix = _DATA_URI.match(data)
    if prefix is not None:
        if not prefix[0].lower().endswith(b";base64,"):
            raise _no_base64("a data: URI that is not in base64")
        data = data[prefix.end() :]
    data = data.translate(_URL_SAFE, delete=_WHITESPACE)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    except binascii.Error:
        raise _no_base64(f"{len(text)} characters") from None


def _check_size(container: Container, max_pixels: int) -> None:
    received = f"{container.width} x {container.height}"
    if container.width < 1 or container.height < 1:
        raise InputError("invalid_image", "The image has no pixels.", "at least 1 x 1", received)
    if container.width * container.height > max_pixels:
        raise InputError(
            "image_too_large",
            "The image has too many pixels.",
            expected=f"at most {max_pixels} pixels",
            received=received,
            action="Make it smaller before sending it; the model sees only a few thousand pixels of it.",
        )


def _decode(container: Container, spec: InputSpec) -> NDArray[np.uint8]:
    with _DECODERS[container.format](io.BytesIO(container.data)) as image:
        if image.size != (container.width, container.height):  # pragma: no cover - no file is known that does this
            raise ValueError("the decoder sees another size than the one that was checked")
        image.info["exif"] = container.exif  # for to_pixels, which reads its orientation and lets PIL parse none of it
        return to_pixels(image, spec)


def _no_base64(received: str) -> InputError:
    return InputError(
        "invalid_image", "The image is no base64.", "the bytes of the file in base64 (RFC 4648)", received
    )
