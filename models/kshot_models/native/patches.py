"""3x3 convolutions of any stride and any channels, as products with the surroundings of each position.

patches (positions, 9 inside) @ filters' (9 inside, outside)
"""

from __future__ import annotations

import numpy as np

from kshot_models.native.instructions import WIDTH
from kshot_models.native.jit import Array2, Array4, inlined
from kshot_models.native.products import multiply, turned
from kshot_models.native.vectors import copy_vector

__all__ = ["convolve", "gradients"]

_BYTES = 4
_AT_ONCE = 1 << 16  # numbers of patches and outputs: as many as have a place in the cache


@inlined
def convolve(images: Array4, filters: Array2, stride: int, out: Array4) -> None:
    """(n, height, width, inside) by (outside, 9 inside) -> (n, height / stride, width / stride, outside)."""
    outside, wide = filters.shape
    part, positions = _parts(out, wide)
    patches, by_place = _patches(part * positions, wide), np.empty((wide, outside), np.float32)
    turned(filters, by_place)
    for first in range(0, len(images), part):
        some = images[first : first + part]
        _scatter(some, stride, out, patches)
        left, right, into = patches.ctypes.data, by_place.ctypes.data, out[first:].ctypes.data
        multiply(left, wide, 1, right, outside, into, outside, len(some) * positions, wide, outside, False)


@inlined
def gradients(
    images: Array4, filters: Array2, grad: Array4, stride: int, of_images: Array4, of_filters: Array2, wanted: int
) -> None:
    """Those of the images, if `wanted` is odd, and of the filters, if it is 2 or 3."""
    outside, wide = filters.shape
    part, positions = _parts(grad, wide)
    patches, by_place = _patches(part * positions, wide), np.empty((wide, outside), np.float32)
    if wanted & 1:
        of_images[:] = np.float32(0.0)
    for first in range(0, len(images), part):
        some = images[first : first + part]
        rows = len(some) * positions
        sent = grad[first:].ctypes.data
        if wanted & 1:
            into = patches.ctypes.data
            multiply(sent, outside, 1, filters.ctypes.data, wide, into, wide, rows, outside, wide, False)
            _gather(patches, stride, grad, of_images[first : first + part])
        if wanted & 2:
            _scatter(some, stride, grad, patches)
            left, into = patches.ctypes.data, by_place.ctypes.data
            multiply(left, 1, wide, sent, outside, into, outside, wide, rows, outside, first > 0)
    if wanted & 2:
        turned(by_place, of_filters)


@inlined
def _patches(rows: int, wide: int) -> Array2:
    """Memory for them, with room for a vector behind it."""
    return np.empty(rows * wide + WIDTH, np.float32)[: rows * wide].reshape(rows, wide)


@inlined
def _parts(out: Array4, wide: int) -> tuple[int, int]:
    """How many images are computed at once, and the positions of one."""
    n, height, width, outside = out.shape
    return min(n, max(1, _AT_ONCE // (height * width * (wide + outside)))), height * width


@inlined
def _scatter(images: Array4, stride: int, out: Array4, patches: Array2) -> None:
    """Write each position's surroundings, 0 outside of the image; positions are those of `out`."""
    n, height, width, channels = images.shape
    down, across, run, wide = out.shape[1], out.shape[2], 3 * channels, (width + 2) * channels
    rows = np.zeros((height + 2) * wide + WIDTH, np.float32)  # an image with a border
    into = patches.ctypes.data
    for i in range(n):
        for y in range(height):
            rows[(y + 1) * wide + channels :][: width * channels] = images[i, y].reshape(-1)
        for y in range(down):
            for x in range(across):
                source = rows.ctypes.data + _BYTES * (y * stride * wide + x * stride * channels)
                for _ in range(3):
                    for c in range(0, run, WIDTH):  # what is written beyond the run is written over by the next
                        copy_vector(source + _BYTES * c, into + _BYTES * c)
                    source += _BYTES * wide
                    into += _BYTES * run


@inlined
def _gather(patches: Array2, stride: int, out: Array4, images: Array4) -> None:
    """Add each position's surroundings to the images: the transpose of `_scatter`."""
    n, height, width, channels = images.shape
    down, across = out.shape[1], out.shape[2]
    for i in range(n):
        for y in range(down):
            for x in range(across):
                row = patches[(i * down + y) * across + x]
                for place in range(9):
                    yy, xx = y * stride + place // 3 - 1, x * stride + place % 3 - 1
                    if 0 <= yy < height and 0 <= xx < width:
                        for c in range(channels):
                            images[i, np.uint64(yy), np.uint64(xx), c] += row[place * channels + c]
