"""3x3 convolutions of stride 1 with 36 multiplications for 16 outputs in place of 144: Winograd's F(4x4, 3x3).

    tile (6x6) -> V = B' tile B        filter (3x3) -> U = G filter G'        outputs (4x4) = A' (U V) A

An image is cut into tiles of 6x6 positions that overlap by two, and between the transforms are 36 matrix products over
the channels. With P = A grad A', the gradients of inputs and filters are

    B (U' P) B', tiles added where they overlap        G' (sum over tiles of P V) G

Rounding errors are some ten times those of a sum of products. Lavin and Gray, 2015, arXiv:1509.09308, section 4.3, with
the points 0, 1, -1, 2, -2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kshot_models.native.instructions import WIDTH
from kshot_models.native.jit import Array2, Array3, Array4, carray, inlined
from kshot_models.native.meeting import meet
from kshot_models.native.products import multiply, turned
from kshot_models.native.vectors import at, transform, transposed

__all__ = ["Team", "convolve", "convolve_shared", "gradients", "gradients_shared", "shared_size", "suits"]

# The transforms, as products of sparse matrices: what two rows share is computed once.
# fmt: off
_PAIRS = (
    (1, 0,  0, 0,  0, 0),
    (0, 1,  1, 0,  0, 0),
    (0, 1, -1, 0,  0, 0),
    (0, 0,  0, 1,  1, 0),
    (0, 0,  0, 1, -1, 0),
    (0, 0,  0, 0,  0, 1),
)
_B = (
    (
        (4,  0, -5,  0, 1, 0),
        (0,  0, -4,  0, 1, 0),
        (0, -4,  0,  1, 0, 0),
        (0,  0, -1,  0, 1, 0),
        (0, -2,  0,  2, 0, 0),
        (0,  4,  0, -5, 0, 1),
    ),
    _PAIRS,
)
_A = (
    _PAIRS,
    (
        (1, 1, 0, 1, 0, 0),
        (0, 0, 1, 0, 2, 0),
        (0, 1, 0, 4, 0, 0),
        (0, 0, 1, 0, 8, 1),
    ),
)
_G = (
    (
        (1 / 4,  0,      0),
        (-1 / 6, 0,      -1 / 6),
        (0,      -1 / 6, 0),
        (1 / 24, 0,      1 / 6),
        (0,      1 / 12, 0),
        (0,      0,      1),
    ),
    _PAIRS,
)
# fmt: on
_BYTES = 4
_PLACES = 36
_AT_ONCE = 80  # tiles: as many as have a place in the cache
_FEW = 32
_WIDE = 2 * WIDTH  # channels


def _each_tile(
    name: str, transformed: Callable[..., None], *, over: int, into_tiles: bool
) -> Callable[[Array4, Array3], None]:
    """A function of images (n, height, width, channels) and planes: from one to the other, tile by tile.

    Args:
        name: of the function.
        transformed: of `transform`.
        over: by how many positions tiles reach over the 4x4 positions that are theirs.
        into_tiles: whether images are what is read.
    """

    def each(images: Array4, planes: Array3) -> None:
        n, height, width, channels = images.shape
        down, across = (height + 3) // 4, (width + 3) // 4
        plane = planes.shape[1] * channels
        for i in range(n):
            for number in range(down * across):
                y, x = number // across * 4 - over, number % across * 4 - over
                image = images.ctypes.data + _BYTES * (((i * height + y) * width + x) * channels)
                tile = planes.ctypes.data + _BYTES * (i * down * across + number) * channels
                a, b, c, d = -y, height - y, -x, width - x  # what is inside of the image
                if into_tiles:
                    transformed(image, width * channels, channels, tile, 6 * plane, plane, a, b, c, d, channels)
                else:
                    transformed(tile, 6 * plane, plane, image, width * channels, channels, a, b, c, d, channels)

    each.__qualname__ = name
    return inlined(each)


_cut = _each_tile("cut", transform(_B, reads_over=True), over=1, into_tiles=True)
_paste = _each_tile("paste", transform(transposed(_B), writes_over=True, adding=True), over=1, into_tiles=False)
_join = _each_tile("join", transform(_A, writes_over=True), over=0, into_tiles=False)
_split = _each_tile("split", transform(transposed(_A), reads_over=True), over=0, into_tiles=True)
_filter, _filter_back = transform(_G), transform(transposed(_G))


@inlined
def suits(inside: int, outside: int, stride: int) -> bool:
    """Whether convolutions of so many channels can be computed here."""
    return stride == 1 and inside % WIDTH == 0 and outside % WIDTH == 0


@inlined
def convolve(images: Array4, filters: Array2, out: Array4) -> None:
    """(n, height, width, inside) by (outside, 9 inside) -> (n, height, width, outside)."""
    inside, outside = images.shape[3], len(filters)
    part, tiles = _parts(images)
    cut, products = _planes(part * tiles, inside), _planes(part * tiles, outside)
    # Of few tiles the filters' transform costs the most: so much of it at once stays in the cache until it is used.
    wide = outside if len(images) * tiles > _FEW or outside % _WIDE else _WIDE
    by_place, spectrum = np.empty((9, inside, wide), np.float32), _planes(inside, wide)
    for first in range(0, len(images), part):
        some = images[first : first + part]
        _cut(some, cut)
        for column in range(0, outside, wide):
            if first == 0 or wide < outside:
                turned(filters[column : column + wide], by_place.reshape(9 * inside, wide))
                _transform_filters(by_place.ctypes.data, inside, wide, inside * wide, spectrum)
            for place in range(_PLACES):
                left, right = cut[place].ctypes.data, spectrum[place].ctypes.data
                into = products[place, 0, column:].ctypes.data
                multiply(left, inside, 1, right, wide, into, outside, len(some) * tiles, inside, wide, False)
        _join(out[first : first + part], products)


@inlined
def gradients(
    images: Array4, filters: Array2, grad: Array4, of_images: Array4, of_filters: Array2, wanted: int
) -> None:
    """Those of the images, if `wanted` is odd, and of the filters, if it is 2 or 3."""
    inside, outside = images.shape[3], len(filters)
    part, tiles = _parts(images)
    sent, cut = _planes(part * tiles, outside), _planes(part * tiles, inside)
    spectrum, total = _planes(outside, inside), _planes(outside, inside)
    if wanted & 1:
        of_images[:] = np.float32(0.0)
        _transform_filters(filters.ctypes.data, outside, 9 * inside, inside, spectrum)
    for first in range(0, len(images), part):
        some = images[first : first + part]
        count = len(some) * tiles
        _split(grad[first : first + part], sent)
        if wanted & 1:
            for place in range(_PLACES):
                _product(sent[place], spectrum[place], cut[place], count)
            _paste(of_images[first : first + part], cut)
        if wanted & 2:
            _cut(some, cut)
            for place in range(_PLACES):
                left, right, into = sent[place].ctypes.data, cut[place].ctypes.data, total[place].ctypes.data
                multiply(left, 1, outside, right, inside, into, inside, outside, count, inside, first > 0)
    if wanted & 2:
        _transform_filters_back(total, of_filters)


class Team(NamedTuple):
    """Threads that compute a convolution together: each has its part of the channels, and sees what the others cut."""

    member: int  # which one this is
    members: int
    arrivals: int  # the address of their count; see meeting.py
    planes: int  # that of memory for what they show one another: `4 * members` times `size` numbers
    size: int


def shared_size(n: int, height: int, width: int, channels: int) -> int:
    """How many numbers the tiles of images have that are computed at once."""
    tiles = (height + 3) // 4 * ((width + 3) // 4)
    return _PLACES * (min(n, max(1, _AT_ONCE // tiles)) * tiles | 1) * channels


@inlined
def convolve_shared(images: Array4, filters: Array2, out: Array4, team: Team, turn: int) -> int:
    """`convolve`, with this member's channels of the images and of the outputs.

    Args:
        images: (n, height, width, inside / members).
        filters: (outside / members, 9 inside).
        out: (n, height, width, outside / members).
        team: the member.
        turn: 0 or 1: which half of the shared memory is written next. Meanwhile others may still read the other half.

    Returns:
        the next turn.
    """
    inside, outside = team.members * images.shape[3], len(filters)
    part, tiles = _parts(images)
    products = _planes(part * tiles, outside)
    by_place, spectrum = np.empty((9, inside, outside), np.float32), _planes(inside, outside)
    turned(filters, by_place.reshape(9 * inside, outside))
    _transform_filters(by_place.ctypes.data, inside, outside, inside * outside, spectrum)
    for first in range(0, len(images), part):
        some = images[first : first + part]
        _cut(some, _shared(team, turn, team.member, 0, part * tiles, images.shape[3]))
        meet(team.arrivals, team.members)
        for member in range(team.members):
            cut = _shared(team, turn, member, 0, part * tiles, images.shape[3])
            _add_products(cut, spectrum, member, products, len(some) * tiles)
        _join(out[first : first + part], products)
        turn = 1 - turn
    return turn


@inlined
def gradients_shared(
    images: Array4, filters: int, grad: Array4, of_images: Array4, of_filters: Array2, team: Team, turn: int
) -> int:
    """`gradients`, with this member's channels of the images, of the outputs and of both gradients.

    Args:
        images: (n, height, width, inside / members).
        filters: the address of all of them, (outside, 9 inside).
        grad: (n, height, width, outside / members).
        of_images: as images.
        of_filters: (outside / members, 9 inside).
        team: the member.
        turn: see `convolve_shared`.

    Returns:
        the next turn.
    """
    own, outside = images.shape[3], grad.shape[3]
    inside = team.members * own
    part, tiles = _parts(images)
    products = _planes(part * tiles, own)
    spectrum, total = _planes(team.members * outside, own), _planes(outside, inside)
    of_images[:] = np.float32(0.0)
    mine = filters + _BYTES * team.member * own
    _transform_filters(mine, team.members * outside, 9 * inside, inside, spectrum)
    for first in range(0, len(images), part):
        some = images[first : first + part]
        count = len(some) * tiles
        sent = _shared(team, turn, team.member, 1, part * tiles, outside)
        _split(grad[first : first + part], sent)
        _cut(some, _shared(team, turn, team.member, 0, part * tiles, own))
        meet(team.arrivals, team.members)
        for member in range(team.members):
            of_member = _shared(team, turn, member, 1, part * tiles, outside)
            _add_products(of_member, spectrum, member, products, count)
        _paste(of_images[first : first + part], products)
        for member in range(team.members):
            cut = _shared(team, turn, member, 0, part * tiles, own)
            for place in range(_PLACES):
                left, right = sent[place].ctypes.data, cut[place].ctypes.data
                into = total[place].ctypes.data + _BYTES * member * own
                multiply(left, 1, outside, right, own, into, inside, outside, count, own, first > 0)
        turn = 1 - turn
    _transform_filters_back(total, of_filters)
    return turn


@inlined
def _shared(team: Team, turn: int, member: int, which: int, rows: int, channels: int) -> Array3:
    """What a member shows the others in a turn: 0: tiles of its images, 1: of its gradients."""
    place = ((turn * team.members + member) * 2 + which) * team.size
    return carray(at(team.planes + _BYTES * place), (_PLACES, rows | 1, channels))


@inlined
def _add_products(left: Array3, spectrum: Array3, member: int, out: Array3, rows: int) -> None:
    """out = left spectrum, of that member's channels, added to what is there of those before it."""
    inner, columns = left.shape[2], spectrum.shape[2]
    for place in range(_PLACES):
        right = spectrum[place, member * inner :].ctypes.data
        multiply(
            left[place].ctypes.data, inner, 1, right, columns, out[place].ctypes.data, columns, rows, inner, columns,
            member > 0,
        )  # fmt: skip


@inlined
def _transform_filters(filters: int, rows: int, row_step: int, place_step: int, spectrum: Array3) -> None:
    """U, for rows of filters: an address, and the distances from row to row and from place to place of a filter."""
    channels = spectrum.shape[2]
    plane = spectrum.shape[1] * channels
    for row in range(rows):
        source, into = filters + _BYTES * row * row_step, spectrum[0, row:].ctypes.data
        _filter(source, 3 * place_step, place_step, into, 6 * plane, plane, 0, 0, 0, 0, channels)


@inlined
def _transform_filters_back(total: Array3, of_filters: Array2) -> None:
    """G' total G, for rows of filters."""
    inside = total.shape[2]
    plane = total.shape[1] * inside
    for row in range(len(of_filters)):
        source, into = total[0, row:].ctypes.data, of_filters[row:].ctypes.data
        _filter_back(source, 6 * plane, plane, into, 3 * inside, inside, 0, 0, 0, 0, inside)


@inlined
def _product(left: Array2, right: Array2, out: Array2, rows: int) -> None:
    """Of the first rows."""
    inner, columns = left.shape[1], right.shape[1]
    multiply(
        left.ctypes.data, inner, 1, right.ctypes.data, columns, out.ctypes.data, columns, rows, inner, columns, False
    )


@inlined
def _parts(images: Array4) -> tuple[int, int]:
    """How many images are computed at once, and the tiles of one."""
    n, height, width, _ = images.shape
    tiles = (height + 3) // 4 * ((width + 3) // 4)
    return min(n, max(1, _AT_ONCE // tiles)), tiles


@inlined
def _planes(rows: int, channels: int) -> Array3:
    """Memory for matrices, one for each place of a tile.

    The distance from one to the next is an odd number of rows: a tile is written to all of them at once, and caches
    have few places for what lies apart by a power of two.
    """
    return np.empty((_PLACES, rows | 1, channels), np.float32)
