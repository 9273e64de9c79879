"""The one door to threads: parsing bodies and decoding images would hold up everybody else on the event loop.

The pool is its own: LitServe waits for replies in the loop's default pool, and decoding there would delay answers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from kshot_models.manifest import InputSpec
from kshot_models.pixels import resize_pixels
from kshot_server.errors import InputError
from kshot_server.faults import Fault
from kshot_server.images import decode_base64, decode_image

__all__ = ["Decoder", "Images", "decode_images"]

Images: TypeAlias = "tuple[bytes | str, ...] | NDArray[np.uint8]"
"""Image files, as bytes or in base64, or pixels: uint8 (n, h, w) or (n, h, w, c)."""

P = ParamSpec("P")
T = TypeVar("T")


class Decoder:
    """A small pool of threads."""

    def __init__(self, threads: int = 0) -> None:
        """Args: threads, 0 for one for each core."""
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread. Cancelling the caller lets it go; work that has begun ends by itself."""
        return await asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def decode_images(images: Images, spec: InputSpec, *, name: str, max_pixels: int, deadline: float) -> NDArray[np.uint8]:
    """Bring images to a model's input size.

    Args:
        images: files or pixels.
        spec: the model's input.
        name: what an error calls them, `support` or `queries`.
        max_pixels: most pixels of one image.
        deadline: unix seconds; threads cannot be interrupted, so it is looked at before each image.

    Returns:
        uint8 (n, height, width, channels).

    Raises:
        InputError: an image cannot be used; the detail says which.
        Fault: `deadline_exceeded`.
    """
    if isinstance(images, np.ndarray):
        return resize_pixels(images, spec)
    out = np.empty((len(images), spec.height, spec.width, spec.channels), np.uint8)
    for i, data in enumerate(images):
        if time.time() > deadline:
            raise Fault("deadline_exceeded", "The deadline passed while images were being decoded.")
        try:
            file = decode_base64(data) if isinstance(data, str) else data
            out[i] = decode_image(file, spec, max_pixels=max_pixels)
        except InputError as error:
            detail = f"{name}[{i}]: {error.detail}"
            raise InputError(error.code, detail, error.expected, error.received, error.action) from None
    return out
