"""What the addresses in a row of a table of blocks stand for: arrays, with the axes of blocks.py; parts of kernels."""

from __future__ import annotations

import numpy as np

from kshot_models.native import columns
from kshot_models.native.convolution import convolve_task
from kshot_models.native.jit import Array, Array2, Array5, Indices, Table, carray, inlined
from kshot_models.native.vectors import at

__all__ = ["add", "below_of", "channels_of", "convolved", "out_at", "raw_of"]


@inlined
def convolved(below: Array5, row: Indices, stride: int, raw: Array5) -> None:
    """Convolve `below` with the row's filters."""
    filters = carray(at(row[columns.FILTERS]), (row[columns.OUTSIDE], 9 * row[columns.INSIDE]))
    convolve_task(below[0], filters, stride, raw[0])


@inlined
def below_of(table: Table, number: int, images: int, n: int) -> Array5:
    """What the block takes."""
    row = table[number]
    address = images if number == 0 else table[number - 1, columns.OUT]
    return carray(at(address), (1, n, row[columns.HEIGHT], row[columns.WIDTH], row[columns.INSIDE]))


@inlined
def raw_of(row: Indices, n: int, stride: int) -> Array5:
    """Its convolution; memory for it, if it was not kept."""
    shape = (
        1,
        n,
        (row[columns.HEIGHT] + stride - 1) // stride,
        (row[columns.WIDTH] + stride - 1) // stride,
        row[columns.OUTSIDE],
    )
    return np.empty(shape, np.float32) if row[columns.RAW] == 0 else carray(at(row[columns.RAW]), shape)


@inlined
def out_at(address: int, row: Indices, n: int, stride: int, pool: bool) -> Array5:
    """Features of the shape that it gives, at an address."""
    height, width = (row[columns.HEIGHT] + stride - 1) // stride, (row[columns.WIDTH] + stride - 1) // stride
    each = 2 if pool else 1
    return carray(at(address), (1, n, height // each, width // each, row[columns.OUTSIDE]))


@inlined
def channels_of(address: int, row: Indices) -> Array2:
    """A number for each of its channels, at an address; zeros, if there is nothing."""
    if address == 0:
        return np.zeros((1, row[columns.OUTSIDE]), np.float32)
    return carray(at(address), (1, row[columns.OUTSIDE]))


@inlined
def add(what: Array, into: Array) -> None:
    """into += what."""
    one, other = what.reshape(-1), into.reshape(-1)
    for i in range(len(one)):
        other[i] += one[i]
