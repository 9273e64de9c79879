"""Decoded pixels on disk, so that the second start takes a fraction of a second.

A file is named by a digest of all that its pixels depend on: the files that were read, in order, and the input. It
is therefore never out of date, only unused; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from kshot_models.manifest import InputSpec

__all__ = ["cached_pixels"]

_FORMAT = "1"  # raised when decoding changes what it makes of the same files


def cached_pixels(
    folder: Path | None,
    build: Callable[[], NDArray[np.uint8]],
    *,
    fingerprint: str,
    names: Sequence[str],
    spec: InputSpec,
) -> NDArray[np.uint8]:
    """The pixels from the cache, or built and put there.

    Args:
        folder: of the cache, made if need be; None: build without a cache.
        build: gives uint8 (len(names), H, W, C).
        fingerprint: of the bytes that `build` reads.
        names: of the images, in order.
        spec: their input. Mean and standard deviation do not count: pixels are not normalised.
    """
    if folder is None:
        return build()
    # Another Pillow may decode or resize to other pixels.
    size = f"{PIL.__version__} {spec.height}x{spec.width}x{spec.channels} {spec.resize}"
    key = hashlib.sha256("\n".join([_FORMAT, fingerprint, size, *names]).encode("utf-8", "surrogateescape"))
    path = folder / f"{key.hexdigest()[:32]}.npy"
    pixels = _read(path, (len(names), spec.height, spec.width, spec.channels))
    if pixels is None:
        pixels = build()
        _write(path, pixels)
    return pixels


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """None where there is no such file, or one that something else has damaged."""
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return pixels if isinstance(pixels, np.ndarray) and pixels.shape == shape and pixels.dtype == np.uint8 else None


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may read or write the same name: it must see nothing or the whole file.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, pixels)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
