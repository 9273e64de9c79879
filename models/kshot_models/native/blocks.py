"""All blocks of a network in one call, forward and back: between the kernels there is nothing of Python.

    forward     z_l = w_l * x_{l-1}             x_l = out_l(z_l)                        for l = 1 ... L
    back        s_l = out_l'(z_l) g_l           dw_l = W(x_{l-1}, s_l)                  for l = L ... 1
                g_{l-1} = I(s_l, w_l)

out_l is normalization, pooling and ReLU; W and I are the two gradients of a convolution. What a pass takes and gives is
said by a table of sizes and addresses, a row for each block; the address 0 stands for nothing. Axes of features are one
task, n, height, width, channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from kshot_models.native import columns
from kshot_models.native.convolution import FILTERS, IMAGES, task_gradients
from kshot_models.native.jit import (
    Array,
    Array1,
    Array2,
    Array5,
    Indices,
    Memory,
    Table,
    address_of,
    carray,
    compiled,
    inlined,
    memory_for,
)
from kshot_models.native.normalization import (
    add_through_moments,
    constants,
    count_image,
    gradient_sums,
    gradient_values,
    moments_of,
)
from kshot_models.native.rows import add, below_of, channels_of, convolved, out_at, raw_of
from kshot_models.native.scaling import scaled, scaled_gradient
from kshot_models.native.vectors import at

__all__ = [
    "Keep",
    "Plan",
    "Sizes",
    "first_filters",
    "forward",
    "images_at_once",
    "moments_in",
    "out_in",
    "out_of",
    "plan_of",
    "point_to_block",
    "point_to_gradients",
    "point_to_values",
    "run_back",
    "run_back_scaled",
    "run_forward",
]

_FEW_CHANNELS = 4
_AT_ONCE = 1 << 16  # numbers of a convolution: as many as have a place in the cache
_BYTES = 4


class Keep(Enum):
    """Of what the way back needs."""

    NOTHING = auto()  # there will be none
    LITTLE = auto()  # not what costs little to make again
    ALL = auto()


class Sizes(NamedTuple):
    """What decides how much memory a run takes."""

    images: tuple[int, ...]  # n, height, width, channels
    outside: tuple[int, ...]  # channels of each block
    stride: int
    pool: bool
    keep: Keep


def forward(
    images: Array5,
    share: Array2,
    params: Sequence[Array],
    sizes: Sizes,
    epsilon: float,
    *,
    scale_only: bool = False,
    memory: Memory = memory_for,
) -> tuple[Array1, Table]:
    """Compute the blocks.

    Args:
        images: (1, n, height, width, channels).
        share: (1, n), of each example in the moments.
        params: filters (outside, 3, 3, inside), gain and bias (outside,) of each block, one after the other.
        sizes: of these, and what is kept. What costs little is the convolution of a first block of few channels, which
            has the largest outputs, and what is sent back.
        epsilon: added to variances.
        scale_only: gain and bias are factors and shifts, and there are no moments.
        memory: where they are computed.

    Returns:
        what they give and what is kept, in the places that `plan_of` tells; and the table, which is good as long as all
        of these arrays are, that have to be contiguous.
    """
    plan = plan_of(sizes)
    values, table = memory(plan.size), plan.table.copy()
    point_to_values(table, [address_of(each) for each in params], address_of(values), sizes)
    given = address_of(images), address_of(share), images.shape[1]
    run_forward(table, *given, sizes.stride, sizes.pool, np.float32(epsilon), scale_only)
    return values, table


def out_in(values: Array1, sizes: Sizes, block: int) -> Array5:
    """What a block has given."""
    plan = plan_of(sizes)
    start, shape = int(plan.places[block, 1]), plan.out[block]
    return values[start : start + prod(shape)].reshape(shape)


def point_to_values(table: Table, params: Sequence[int] | Indices, values: int, sizes: Sizes) -> None:
    """Write into a table where filters, gain, bias, filters, ... are, and where a run has its values: addresses."""
    places = plan_of(sizes).places
    table[:, columns.FILTERS : columns.BIAS + 1] = np.asarray(params).reshape(-1, 3)
    table[:, columns.RAW : columns.FOUND + 1] = np.where(places < 0, 0, values + _BYTES * places)


def point_to_gradients(table: Table, gradients: int, sizes: Sizes) -> None:
    """Write into a table where the gradients of filters, gain, bias, filters, ... go, one after the other."""
    table[:, columns.OF_FILTERS : columns.SUMS + 1] = gradients + _BYTES * plan_of(sizes).gradient_places


class Plan(NamedTuple):
    """Where everything lies in the memory of a run, in numbers from its start."""

    table: Table  # with sizes, and no addresses
    raw: list[tuple[int, ...]]  # the shape of each block's convolution
    out: list[tuple[int, ...]]
    places: Table  # (blocks, 3): of raw, or -1, of out, and of what is found: mean, variance, factor and shift
    size: int
    gradients: list[int]  # how many numbers filters, gain and bias of each block have
    gradients_size: int
    gradient_places: Table  # (blocks, 2): of filters, and of gain and bias


@lru_cache(maxsize=256)
def plan_of(sizes: Sizes) -> Plan:
    """The plan of a run, made once."""
    n, height, width, inside = sizes.images
    table = np.zeros((len(sizes.outside), columns.COUNT), np.int64)
    places, gradient_places = np.zeros((len(table), 3), np.int64), np.zeros((len(table), 2), np.int64)
    raws, outs, gradients = list[tuple[int, ...]](), list[tuple[int, ...]](), list[int]()
    size, found = sum(4 * outside for outside in sizes.outside), 0
    for number, outside in enumerate(sizes.outside):
        raw = (1, n, -(-height // sizes.stride), -(-width // sizes.stride), outside)
        out = (1, n, raw[2] // 2, raw[3] // 2, outside) if sizes.pool else raw
        costly = number > 0 or inside > _FEW_CHANNELS
        held = prod(raw) if sizes.keep is Keep.ALL or (sizes.keep is Keep.LITTLE and costly) else 0
        table[number, : columns.OUTSIDE + 1] = height, width, inside, outside
        places[number] = size if held else -1, size + held, found
        gradient_places[number] = sum(gradients), sum(gradients) + 9 * inside * outside
        gradients += [9 * inside * outside, outside, outside]
        raws.append(raw)
        outs.append(out)
        size, found = size + held + prod(out), found + 4 * outside
        height, width, inside = out[2:]
    return Plan(table, raws, outs, places, size, gradients, sum(gradients), gradient_places)


def moments_in(values: Array1, sizes: Sizes, members: int = 1) -> list[Array1]:
    """Mean and variance (outside,) of each block, one after the other; copies, which keep nothing else.

    Args:
        values: of blocks that have been computed.
        sizes: theirs.
        members: by how many threads; each has its channels' moments, and what it made of them, in a row.
    """
    found = values[: 4 * sum(sizes.outside)].copy()
    begins = np.cumsum([0, *(4 * outside for outside in sizes.outside)])
    blocks = [found[begin : begin + 4 * outside] for begin, outside in zip(begins, sizes.outside, strict=False)]
    if members == 1:
        parts = [block.reshape(4, -1) for block in blocks]
        return [part[number] for part in parts for number in (0, 1)]  # then come factor and shift
    each = [block.reshape(members, 4, -1) for block in blocks]
    return [part[:, number].reshape(-1) for part in each for number in (0, 1)]


@inlined
def point_to_block(row: Indices, filters: int, gain: int, bias: int, out: int) -> None:
    """As `point_to_values`, for one block of which nothing else is kept, by addresses."""
    row[columns.FILTERS], row[columns.GAIN], row[columns.BIAS], row[columns.OUT] = filters, gain, bias, out


@inlined
def out_of(row: Indices, n: int, stride: int, pool: bool) -> Array5:
    """What a block has given, (1, n, height, width, channels); before it has, an array of that shape."""
    return out_at(row[columns.OUT], row, n, stride, pool)


@compiled
def run_forward(
    table: Table, images: int, share: int, n: int, stride: int, pool: bool, epsilon: np.float32, scale_only: bool
) -> None:
    """Compute the blocks that a table is of; see kshot_models/batched/native/blocks.py for what each number is."""
    shares = carray(at(share), (1, n))
    for number in range(len(table)):
        row = table[number]
        below, out = below_of(table, number, images, n), out_at(row[columns.OUT], row, n, stride, pool)
        gain, bias = channels_of(row[columns.GAIN], row), channels_of(row[columns.BIAS], row)
        part = images_at_once(row, n, stride)
        if scale_only:
            for first in range(0, n, part):
                some, into = _images(below, first, part), _images(out, first, part)
                raw = (
                    raw_of(row, some.shape[1], stride)
                    if row[columns.RAW] == 0
                    else _images(raw_of(row, n, stride), first, part)
                )
                convolved(some, row, stride, raw)
                scaled(raw, gain, bias, pool, into)
        else:
            raw, found = raw_of(row, n, stride), carray(at(row[columns.FOUND]), (4, 1, row[columns.OUTSIDE]))
            sums = np.zeros((3, row[columns.OUTSIDE]), np.float64)
            for first in range(0, n, part):
                some = _images(raw, first, part)
                convolved(_images(below, first, part), row, stride, some)
                for i in range(some.shape[1]):
                    count_image(some[0, i], shares[0], first + i, sums)
            moments_of(sums, gain[0], bias[0], epsilon, found[:, 0])
            scaled(raw, found[2], found[3], pool, out)


@compiled
def run_back(
    table: Table, images: int, share: int, above: int, n: int, stride: int, pool: bool, epsilon: np.float32
) -> None:
    """Go back through them."""
    shares = carray(at(share), (1, n))
    there = above != 0
    grad = out_at(above, table[len(table) - 1], n, stride, pool)
    for number in range(len(table) - 1, -1, -1):
        row = table[number]
        if row[columns.MORE_OUT] != 0:
            more = out_at(row[columns.MORE_OUT], row, n, stride, pool)
            if there:
                add(grad, more)
            grad, there = more, True
        others = row[columns.MORE_RAW] != 0 or row[columns.MORE_MEAN] != 0 or row[columns.MORE_VARIANCE] != 0
        if not there and not others:
            continue
        outside, wide = row[columns.OUTSIDE], 9 * row[columns.INSIDE]
        below, raw = below_of(table, number, images, n), raw_of(row, n, stride)
        if row[columns.RAW] == 0:
            convolved(below, row, stride, raw)
        found, sums = carray(at(row[columns.FOUND]), (4, 1, outside)), carray(at(row[columns.SUMS]), (2, 1, outside))
        by = constants(
            channels_of(row[columns.GAIN], row), channels_of(row[columns.BIAS], row), found[0], found[1], epsilon
        )
        filters, of_filters = (
            carray(at(row[columns.FILTERS]), (outside, wide)),
            carray(at(row[columns.OF_FILTERS]), (outside, wide)),
        )
        if there:
            gradient_sums(raw, by, grad, pool, sums)
        if number == 0 and row[columns.BELOW] == 0 and row[columns.SENT] == 0 and not others:
            part = images_at_once(row, n, stride)
            first_filters(below, raw, by, shares, grad, pool, stride, sums, of_filters, part)
            break
        sent = np.empty(raw.shape, np.float32) if row[columns.SENT] == 0 else carray(at(row[columns.SENT]), raw.shape)
        if there:
            gradient_values(raw, by, shares, grad, pool, sums, sent)
        else:
            sent[:] = np.float32(0.0)
        if row[columns.MORE_RAW] != 0:
            more = carray(at(row[columns.MORE_RAW]), raw.shape)
            add(sent, more)
            sent = more
        if row[columns.MORE_MEAN] != 0 or row[columns.MORE_VARIANCE] != 0:
            mean, variance = channels_of(row[columns.MORE_MEAN], row), channels_of(row[columns.MORE_VARIANCE], row)
            add_through_moments(raw, shares, found[0], mean, variance, sent)
        wanted = FILTERS | IMAGES if number > 0 or row[columns.BELOW] != 0 else FILTERS
        passed = np.empty(below.shape if wanted & IMAGES else (1, 0, 0, 0, 0), np.float32)
        if row[columns.BELOW] != 0:
            passed = carray(at(row[columns.BELOW]), below.shape)
        task_gradients(below[0], filters, sent[0], stride, passed[0], of_filters, wanted)
        grad, there = passed, True


@compiled
def run_back_scaled(table: Table, images: int, above: int, n: int, stride: int, pool: bool) -> None:
    """Go back through blocks whose gain and bias are factors and shifts."""
    grad = out_at(above, table[len(table) - 1], n, stride, pool)
    for number in range(len(table) - 1, -1, -1):
        row = table[number]
        outside, wide = row[columns.OUTSIDE], 9 * row[columns.INSIDE]
        below, raw = below_of(table, number, images, n), raw_of(row, n, stride)
        gain, bias = channels_of(row[columns.GAIN], row), channels_of(row[columns.BIAS], row)
        sums, sent = carray(at(row[columns.SUMS]), (2, 1, outside)), np.empty(raw.shape, np.float32)
        scaled_gradient(raw, gain, bias, grad, pool, sent, sums[0], sums[1])
        filters = carray(at(row[columns.FILTERS]), (outside, wide))
        of_filters = carray(at(row[columns.OF_FILTERS]), (outside, wide))
        wanted = FILTERS | IMAGES if number > 0 or row[columns.BELOW] != 0 else FILTERS
        passed = np.empty(below.shape if wanted & IMAGES else (1, 0, 0, 0, 0), np.float32)
        if row[columns.BELOW] != 0:
            passed = carray(at(row[columns.BELOW]), below.shape)
        task_gradients(below[0], filters, sent[0], stride, passed[0], of_filters, wanted)
        grad = passed


@inlined
def first_filters(
    images: Array5,
    raw: Array5,
    by: Array,
    share: Array2,
    grad: Array5,
    pool: bool,
    stride: int,
    sums: Array,
    of_filters: Array2,
    part: int,
) -> None:
    """The gradient of the filters of a first block: `part` images at a time, as what is sent back to it is large."""
    more = np.empty(of_filters.shape, np.float32)
    of_filters[:] = np.float32(0.0)
    for first in range(0, raw.shape[1], part):
        some, below = _images(raw, first, part), _images(images, first, part)
        sent = np.empty(some.shape, np.float32)
        gradient_values(some, by, share[:, first : first + part].copy(), _images(grad, first, part), pool, sums, sent)
        task_gradients(below[0], more, sent[0], stride, below[0], more, FILTERS)
        add(more, of_filters)


@inlined
def images_at_once(row: Indices, n: int, stride: int) -> int:
    """How many images of a block are computed before what follows the convolution."""
    height, width = (row[columns.HEIGHT] + stride - 1) // stride, (row[columns.WIDTH] + stride - 1) // stride
    each: int = height * width * row[columns.OUTSIDE]
    return min(n, max(1, _AT_ONCE // each))


@inlined
def _images(features: Array5, first: int, count: int) -> Array5:
    some = features[0, first : first + count]
    return some.reshape((1, *some.shape))
