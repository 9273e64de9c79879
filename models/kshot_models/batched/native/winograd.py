"""3x3 convolutions of stride 1 with 36 multiplications for 16 outputs in place of 144: Winograd's F(4x4, 3x3).

    tile (6x6) -> V = B' tile B        filter (3x3) -> U = G filter G'        outputs (4x4) = A' (U V) A

An image is cut into tiles of 6x6 positions that overlap by two, and between the transforms are 36 matrix products over
the channels. With P = A grad A', the gradients of inputs and filters are

    B (U' P) B', tiles added where they overlap        G' (sum over tiles of P V) G

Without U at hand, that of the inputs is a convolution with the filters turned.

Of channels, a block at a time is worked on in buffers of fixed size, so that inner loops are a few vector
instructions. Rounding errors are some ten times those of a sum of products. Lavin and Gray, 2015, arXiv:1509.09308,
section 4.3, with the points 0, 1, -1, 2, -2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.jit import Array, Array5, Array6, array, compiled
from kshot_models.batched.native.scratch import scratch

__all__ = ["LANES", "Convolved", "again", "convolved", "gradients", "input_gradient", "weight_gradient"]

LANES = 32  # channels are a multiple of it
_AT_ONCE = 80  # tiles


class Convolved(NamedTuple):
    """A convolution that has been computed, and what its gradients need of it."""

    inputs: Tensor  # (tasks, n, height, width, inside)
    filters: Tensor  # (tasks, outside, 9 inside)
    kept: tuple[Tensor, Tensor] | None  # V (tasks, 36, tiles, inside) and U (tasks, 36, outside, inside), if kept


def convolved(inputs: Tensor, filters: Tensor, *, keep: bool) -> tuple[Tensor, Convolved]:
    """(tasks, n, height, width, inside) by (tasks, outside, 9 inside) -> (tasks, n, height, width, outside)."""
    if not keep:
        return _multiplied(inputs, _spectrum(filters).transpose(-1, -2)), Convolved(inputs, filters, None)
    tiles, spectrum = _cut(inputs, keep=True), _spectrum(filters, keep=True)
    out = torch.empty((*inputs.shape[:-1], filters.shape[1]))
    _put(_product(tiles, spectrum.transpose(-1, -2)), out)
    return out, Convolved(inputs, filters, (tiles, spectrum))


def again(done: Convolved, filters: Tensor) -> Tensor:
    """The same inputs by other filters."""
    spectrum = _spectrum(filters).transpose(-1, -2)
    if done.kept is None:
        return _multiplied(done.inputs, spectrum)
    out = torch.empty((*done.inputs.shape[:-1], filters.shape[1]))
    _put(_product(done.kept[0], spectrum), out)
    return out


def gradients(done: Convolved, grad: Tensor, *, inputs: bool, filters: bool) -> tuple[Tensor | None, Tensor | None]:
    """Those of the inputs and the filters, each if it is asked for."""
    of_inputs = torch.zeros(done.inputs.shape) if inputs else None
    of_filters = _Sum(done.filters) if filters else None
    tiles, spectrum = (None, _spectrum(done.filters) if inputs else None) if done.kept is None else done.kept
    for part in [slice(None)] if tiles is not None else _parts(grad):
        sent = _sent(grad[:, part])
        if of_inputs is not None and spectrum is not None:
            _paste(_blocks(_product(sent, spectrum).numpy()), _blocks(of_inputs[:, part].numpy()))
        if of_filters is not None:
            of_filters.add(sent, _cut(done.inputs[:, part]) if tiles is None else tiles)
    return of_inputs, None if of_filters is None else of_filters.filters()


def input_gradient(grad: Tensor, filters: Tensor) -> Tensor:
    """(tasks, n, height, width, outside) by (tasks, outside, 9 inside) -> (tasks, n, height, width, inside)."""
    return _multiplied(grad, _spectrum(filters, turned=True))


def weight_gradient(inputs: Tensor, grad: Tensor) -> Tensor:
    """(tasks, n, height, width, inside) by (tasks, n, height, width, outside) -> (tasks, outside, 9 inside)."""
    found = _Sum(grad.new_empty((len(grad), grad.shape[-1], 9 * inputs.shape[-1])))
    for part in _parts(grad):
        found.add(_sent(grad[:, part]), _cut(inputs[:, part]))
    return found.filters()


class _Sum:
    """Of P V over tiles, which come in parts."""

    def __init__(self, like: Tensor) -> None:
        tasks, outside, wide = like.shape
        self._total = scratch("filters", tasks * 36, outside, wide // 9)
        self._found = torch.empty(like.shape)
        self._begun = False

    def add(self, sent: Tensor, tiles: Tensor) -> None:
        factors = sent.flatten(0, 1).transpose(1, 2), tiles.flatten(0, 1)
        if self._begun:
            self._total.baddbmm_(*factors)
        else:
            torch.bmm(*factors, out=self._total)
        self._begun = True

    def filters(self) -> Tensor:
        """(tasks, outside, 9 inside)."""
        tasks = len(self._found)
        _filters_back(
            _blocks(self._total.view(tasks, 36, *self._total.shape[1:]).numpy()), _filter_blocks(self._found.numpy())
        )
        return self._found


def _multiplied(inputs: Tensor, spectrum: Tensor) -> Tensor:
    """The outputs of tiles that are multiplied by (tasks, 36, inside, outside)."""
    out = torch.empty((*inputs.shape[:-1], spectrum.shape[-1]))
    for part in _parts(inputs):
        _put(_product(_cut(inputs[:, part]), spectrum), out[:, part])
    return out


def _parts(images: Tensor) -> list[slice]:
    """Images that are computed at once: as many as have their tiles in the processor's cache."""
    tasks, n, height, width, _ = images.shape
    count = max(1, _AT_ONCE // (-(-height // 4) * -(-width // 4))) if tasks == 1 else n  # parts are contiguous
    return [slice(start, start + count) for start in range(0, n, count)]


def _put(products: Tensor, out: Tensor) -> None:
    _join(_blocks(products.numpy()), _blocks(out.numpy()))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(tasks, 36, rows, inside) by (tasks, 36, inside, columns); scratch."""
    size = (*left.shape[:3], right.shape[-1])
    out = scratch("product", *size)
    torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out=out.flatten(0, 1))
    return out


def _spectrum(filters: Tensor, *, turned: bool = False, keep: bool = False) -> Tensor:
    """(tasks, outside, 9 inside) -> (tasks, 36, outside, inside); scratch, unless it is kept."""
    tasks, outside, wide = filters.shape
    size = tasks, 36, outside | 1, wide // 9  # with one row too many, if need be; see _planes_size
    spectrum = torch.empty(size) if keep else scratch("spectrum", *size)
    _filters(_filter_blocks(array(filters)), turned, _blocks(spectrum.numpy()))
    return spectrum[:, :, :outside]


def _cut(inputs: Tensor, *, keep: bool = False) -> Tensor:
    """V, scratch, unless it is kept."""
    size = _planes_size(inputs)
    planes = torch.empty(size) if keep else scratch("tiles", *size)
    _cut_tiles(_blocks(array(inputs)), _blocks(planes.numpy()))
    return planes


def _sent(grad: Tensor) -> Tensor:
    """A grad A', scratch."""
    planes = scratch("sent", *_planes_size(grad))
    _split(_blocks(array(grad)), _blocks(planes.numpy()))
    return planes


def _planes_size(images: Tensor) -> tuple[int, int, int, int]:
    """Of the tiles of images: tasks, 36, rows, channels.

    Rows are made odd in number: a tile is written to 36 places, and caches have few for what lies apart by a power of
    two. The kernels fill the row that is too many with zeros.
    """
    tasks, n, height, width, channels = images.shape
    return tasks, 36, n * -(-height // 4) * -(-width // 4) | 1, channels


def _blocks(values: Array) -> Array:
    """(..., channels) -> (..., channels / LANES, LANES)."""
    return values.reshape(*values.shape[:-1], -1, LANES)


def _filter_blocks(filters: Array) -> Array:
    """(tasks, outside, 9 inside) -> (tasks, outside, 9, inside / LANES, LANES)."""
    return filters.reshape(*filters.shape[:2], 9, -1, LANES)


@compiled
def _cut_tiles(images: Array6, tiles: Array5) -> None:
    """V = B' tile B."""
    tasks, n, height, width, blocks, _ = images.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    zero, two, four, five = np.float32(0), np.float32(2), np.float32(4), np.float32(5)
    d = np.zeros((6, 6, LANES), np.float32)
    m = np.zeros((6, 6, LANES), np.float32)
    tiles[:, :, n * down * across :] = zero
    for t in range(tasks):
        for i in range(n):
            for tile in range(down * across):
                top, left = tile // across * 4 - 1, tile % across * 4 - 1
                row = i * down * across + tile
                for block in range(blocks):
                    for y in range(6):
                        for x in range(6):
                            if 0 <= top + y < height and 0 <= left + x < width:
                                for c in range(LANES):
                                    d[y, x, c] = images[t, i, top + y, left + x, block, c]
                            else:
                                for c in range(LANES):
                                    d[y, x, c] = zero
                    for x in range(6):
                        for c in range(LANES):
                            m[0, x, c] = four * d[0, x, c] - five * d[2, x, c] + d[4, x, c]
                            m[1, x, c] = d[3, x, c] + d[4, x, c] - four * (d[1, x, c] + d[2, x, c])
                            m[2, x, c] = d[4, x, c] - d[3, x, c] + four * (d[1, x, c] - d[2, x, c])
                            m[3, x, c] = d[4, x, c] - d[2, x, c] + two * (d[3, x, c] - d[1, x, c])
                            m[4, x, c] = d[4, x, c] - d[2, x, c] - two * (d[3, x, c] - d[1, x, c])
                            m[5, x, c] = four * d[1, x, c] - five * d[3, x, c] + d[5, x, c]
                    for y in range(6):
                        for c in range(LANES):
                            d[y, 0, c] = four * m[y, 0, c] - five * m[y, 2, c] + m[y, 4, c]
                            d[y, 1, c] = m[y, 3, c] + m[y, 4, c] - four * (m[y, 1, c] + m[y, 2, c])
                            d[y, 2, c] = m[y, 4, c] - m[y, 3, c] + four * (m[y, 1, c] - m[y, 2, c])
                            d[y, 3, c] = m[y, 4, c] - m[y, 2, c] + two * (m[y, 3, c] - m[y, 1, c])
                            d[y, 4, c] = m[y, 4, c] - m[y, 2, c] - two * (m[y, 3, c] - m[y, 1, c])
                            d[y, 5, c] = four * m[y, 1, c] - five * m[y, 3, c] + m[y, 5, c]
                    for y in range(6):
                        for x in range(6):
                            for c in range(LANES):
                                tiles[t, 6 * y + x, row, block, c] = d[y, x, c]


@compiled
def _join(products: Array5, images: Array6) -> None:
    """Outputs = A' (U V) A."""
    tasks, n, height, width, blocks, _ = images.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    d = np.zeros((6, 6, LANES), np.float32)
    m = np.zeros((4, 6, LANES), np.float32)
    for t in range(tasks):
        for i in range(n):
            for tile in range(down * across):
                top, left = tile // across * 4, tile % across * 4
                row = i * down * across + tile
                for block in range(blocks):
                    for y in range(6):
                        for x in range(6):
                            for c in range(LANES):
                                d[y, x, c] = products[t, 6 * y + x, row, block, c]
                    for x in range(6):
                        for c in range(LANES):
                            plus, minus = d[1, x, c] + d[2, x, c], d[1, x, c] - d[2, x, c]
                            wide, slope = d[3, x, c] + d[4, x, c], d[3, x, c] - d[4, x, c]
                            m[0, x, c] = d[0, x, c] + plus + wide
                            m[1, x, c] = minus + two * slope
                            m[2, x, c] = plus + four * wide
                            m[3, x, c] = minus + eight * slope + d[5, x, c]
                    for y in range(4):
                        for c in range(LANES):
                            plus, minus = m[y, 1, c] + m[y, 2, c], m[y, 1, c] - m[y, 2, c]
                            wide, slope = m[y, 3, c] + m[y, 4, c], m[y, 3, c] - m[y, 4, c]
                            d[y, 0, c] = m[y, 0, c] + plus + wide
                            d[y, 1, c] = minus + two * slope
                            d[y, 2, c] = plus + four * wide
                            d[y, 3, c] = minus + eight * slope + m[y, 5, c]
                    for y in range(min(4, height - top)):
                        for x in range(min(4, width - left)):
                            for c in range(LANES):
                                images[t, i, top + y, left + x, block, c] = d[y, x, c]


@compiled
def _split(images: Array6, products: Array5) -> None:
    """A grad A', the transpose of `_join`."""
    tasks, n, height, width, blocks, _ = images.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    zero, two, four, eight = np.float32(0), np.float32(2), np.float32(4), np.float32(8)
    d = np.zeros((6, 6, LANES), np.float32)
    m = np.zeros((6, 4, LANES), np.float32)
    products[:, :, n * down * across :] = zero
    for t in range(tasks):
        for i in range(n):
            for tile in range(down * across):
                top, left = tile // across * 4, tile % across * 4
                row = i * down * across + tile
                for block in range(blocks):
                    for y in range(4):
                        for x in range(4):
                            if top + y < height and left + x < width:
                                for c in range(LANES):
                                    d[y, x, c] = images[t, i, top + y, left + x, block, c]
                            else:
                                for c in range(LANES):
                                    d[y, x, c] = zero
                    for x in range(4):
                        for c in range(LANES):
                            even, odd = d[0, x, c] + d[2, x, c], d[1, x, c] + d[3, x, c]
                            wide, slope = d[0, x, c] + four * d[2, x, c], two * d[1, x, c] + eight * d[3, x, c]
                            m[0, x, c] = d[0, x, c]
                            m[1, x, c] = even + odd
                            m[2, x, c] = even - odd
                            m[3, x, c] = wide + slope
                            m[4, x, c] = wide - slope
                            m[5, x, c] = d[3, x, c]
                    for y in range(6):
                        for c in range(LANES):
                            even, odd = m[y, 0, c] + m[y, 2, c], m[y, 1, c] + m[y, 3, c]
                            wide, slope = m[y, 0, c] + four * m[y, 2, c], two * m[y, 1, c] + eight * m[y, 3, c]
                            d[y, 0, c] = m[y, 0, c]
                            d[y, 1, c] = even + odd
                            d[y, 2, c] = even - odd
                            d[y, 3, c] = wide + slope
                            d[y, 4, c] = wide - slope
                            d[y, 5, c] = m[y, 3, c]
                    for y in range(6):
                        for x in range(6):
                            for c in range(LANES):
                                products[t, 6 * y + x, row, block, c] = d[y, x, c]


@compiled
def _paste(products: Array5, images: Array6) -> None:
    """B q B', added to the images: the transpose of `_cut_tiles`."""
    tasks, n, height, width, blocks, _ = images.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    two, four, five = np.float32(2), np.float32(4), np.float32(5)
    d = np.zeros((6, 6, LANES), np.float32)
    m = np.zeros((6, 6, LANES), np.float32)
    for t in range(tasks):
        for i in range(n):
            for tile in range(down * across):
                top, left = tile // across * 4 - 1, tile % across * 4 - 1
                row = i * down * across + tile
                for block in range(blocks):
                    for y in range(6):
                        for x in range(6):
                            for c in range(LANES):
                                d[y, x, c] = products[t, 6 * y + x, row, block, c]
                    for x in range(6):
                        for c in range(LANES):
                            plus, minus = d[1, x, c] + d[2, x, c], d[1, x, c] - d[2, x, c]
                            wide, slope = d[3, x, c] + d[4, x, c], d[3, x, c] - d[4, x, c]
                            m[0, x, c] = four * d[0, x, c]
                            m[1, x, c] = four * (d[5, x, c] - minus) - two * slope
                            m[2, x, c] = -five * d[0, x, c] - four * plus - wide
                            m[3, x, c] = minus + two * slope - five * d[5, x, c]
                            m[4, x, c] = d[0, x, c] + plus + wide
                            m[5, x, c] = d[5, x, c]
                    for y in range(6):
                        for c in range(LANES):
                            plus, minus = m[y, 1, c] + m[y, 2, c], m[y, 1, c] - m[y, 2, c]
                            wide, slope = m[y, 3, c] + m[y, 4, c], m[y, 3, c] - m[y, 4, c]
                            d[y, 0, c] = four * m[y, 0, c]
                            d[y, 1, c] = four * (m[y, 5, c] - minus) - two * slope
                            d[y, 2, c] = -five * m[y, 0, c] - four * plus - wide
                            d[y, 3, c] = minus + two * slope - five * m[y, 5, c]
                            d[y, 4, c] = m[y, 0, c] + plus + wide
                            d[y, 5, c] = m[y, 5, c]
                    for y in range(6):
                        for x in range(6):
                            if 0 <= top + y < height and 0 <= left + x < width:
                                for c in range(LANES):
                                    images[t, i, top + y, left + x, block, c] += d[y, x, c]


@compiled
def _filters(filters: Array5, turned: bool, spectrum: Array5) -> None:
    """U = G filter G', of the filters or of the filters turned by half a circle."""
    tasks, outside, _, blocks, _ = filters.shape
    quarter, sixth = np.float32(1 / 4), np.float32(1 / 6)
    a, b = np.float32(1 / 24), np.float32(1 / 12)
    d = np.zeros((6, 6, LANES), np.float32)
    m = np.zeros((6, 3, LANES), np.float32)
    for t in range(tasks):
        for o in range(outside):
            for block in range(blocks):
                for place in range(9):
                    at, y, x = 8 - place if turned else place, place // 3, place % 3
                    for c in range(LANES):
                        d[y, x, c] = filters[t, o, at, block, c]
                for x in range(3):
                    for c in range(LANES):
                        ends, wide = sixth * (d[0, x, c] + d[2, x, c]), a * d[0, x, c] + sixth * d[2, x, c]
                        m[0, x, c] = quarter * d[0, x, c]
                        m[1, x, c] = -ends - sixth * d[1, x, c]
                        m[2, x, c] = sixth * d[1, x, c] - ends
                        m[3, x, c] = wide + b * d[1, x, c]
                        m[4, x, c] = wide - b * d[1, x, c]
                        m[5, x, c] = d[2, x, c]
                for y in range(6):
                    for c in range(LANES):
                        ends, wide = sixth * (m[y, 0, c] + m[y, 2, c]), a * m[y, 0, c] + sixth * m[y, 2, c]
                        d[y, 0, c] = quarter * m[y, 0, c]
                        d[y, 1, c] = -ends - sixth * m[y, 1, c]
                        d[y, 2, c] = sixth * m[y, 1, c] - ends
                        d[y, 3, c] = wide + b * m[y, 1, c]
                        d[y, 4, c] = wide - b * m[y, 1, c]
                        d[y, 5, c] = m[y, 2, c]
                for y in range(6):
                    for x in range(6):
                        for c in range(LANES):
                            spectrum[t, 6 * y + x, o, block, c] = d[y, x, c]


@compiled
def _filters_back(spectrum: Array5, filters: Array5) -> None:
    """G' spectrum G, the transpose of `_filters`."""
    tasks, outside, _, blocks, _ = filters.shape
    quarter, sixth = np.float32(1 / 4), np.float32(1 / 6)
    a, b = np.float32(1 / 24), np.float32(1 / 12)
    d = np.zeros((6, 6, LANES), np.float32)
    m = np.zeros((3, 6, LANES), np.float32)
    for t in range(tasks):
        for o in range(outside):
            for block in range(blocks):
                for y in range(6):
                    for x in range(6):
                        for c in range(LANES):
                            d[y, x, c] = spectrum[t, 6 * y + x, o, block, c]
                for x in range(6):
                    for c in range(LANES):
                        plus, minus = d[1, x, c] + d[2, x, c], d[2, x, c] - d[1, x, c]
                        wide, slope = d[3, x, c] + d[4, x, c], d[3, x, c] - d[4, x, c]
                        m[0, x, c] = quarter * d[0, x, c] - sixth * plus + a * wide
                        m[1, x, c] = sixth * minus + b * slope
                        m[2, x, c] = sixth * (wide - plus) + d[5, x, c]
                for y in range(3):
                    for c in range(LANES):
                        plus, minus = m[y, 1, c] + m[y, 2, c], m[y, 2, c] - m[y, 1, c]
                        wide, slope = m[y, 3, c] + m[y, 4, c], m[y, 3, c] - m[y, 4, c]
                        d[y, 0, c] = quarter * m[y, 0, c] - sixth * plus + a * wide
                        d[y, 1, c] = sixth * minus + b * slope
                        d[y, 2, c] = sixth * (wide - plus) + m[y, 5, c]
                for place in range(9):
                    y, x = place // 3, place % 3
                    for c in range(LANES):
                        filters[t, o, place, block, c] = d[y, x, c]
