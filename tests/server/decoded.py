"""Decoding as the server does it, and the picture that tests compare with."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from tests.attacks.images.evil import photo

from kshot_models.manifest import InputSpec
from kshot_server.images import decode_image

__all__ = ["HEIGHT", "MAX_PIXELS", "PHOTO", "WIDTH", "decode", "spec", "tiff"]


MAX_PIXELS = 4_000_000


HEIGHT, WIDTH = 24, 32


def spec(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> InputSpec:
    values = (0.0,) * channels, (1.0,) * channels
    return InputSpec(height=height, width=width, channels=channels, mean=values[0], std=values[1])


def decode(data: bytes, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Any:
    return decode_image(data, spec(height, width, channels), max_pixels=MAX_PIXELS).astype(int)


PHOTO = np.asarray(photo(HEIGHT, WIDTH)).astype(int)


def tiff(orientation_value: int, order: str = "<", kind: int = 3) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    other = struct.pack(order + "HHII", 0x010F, 2, 4, 0)
    entry = struct.pack(order + "HHIHH", 0x0112, kind, 1, orientation_value, 0)
    return mark + struct.pack(order + "IH", 8, 2) + other + entry + bytes(4)
