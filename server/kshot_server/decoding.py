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

_FEW_BYTES = 64 * 1024  # of pixels
_SMALL_BYTES = 8 * 1024  # of an image

P = ParamSpec("P")
T = TypeVar("T")


class Decoder:
    """A small pool of threads, and one for what is small.

    Of a small image most of the work is Python's, which one thread does at a time, and PIL lets others at it a dozen
    times: they would wait for one another longer than they decode.
    """

    def __init__(self, threads: int = 0) -> None:
        """Args: threads, 0 for one for each core."""
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode")
        self._one = ThreadPoolExecutor(1, thread_name_prefix="decode-small")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread. Cancelling the caller lets it go; work that has begun ends by itself."""
        return await asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))

    async def decode(self, work: Callable[[], T], *images: Images) -> T:
        """Run `work`, which decodes these images, where it is done soonest; see `run`."""
        if sum(some.nbytes if isinstance(some, np.ndarray) else _FEW_BYTES + 1 for some in images) <= _FEW_BYTES:
            return work()  # sooner brought to size than handed to a thread
        pool = self._one if max(map(_largest, images)) <= _SMALL_BYTES else self._pool
        return await asyncio.wrap_future(pool.submit(work))

    def close(self) -> None:
        """Begin nothing more."""
        for pool in (self._pool, self._one):
            pool.shutdown(wait=False, cancel_futures=True)


def _largest(images: Images) -> int:
    """Bytes of one."""
    if isinstance(images, np.ndarray):
        return images[:1].nbytes
    return max(map(len, images), default=0)


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
