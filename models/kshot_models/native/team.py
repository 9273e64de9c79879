"""All inner steps of a gradient descent by several threads at once: each has its part of the channels of every block.

    member m of M has the channels from m C / M to before (m + 1) C / M of a block: their filters and norms, features
    (M, n, height, width, C / M), and gradients of all these

so that a convolution is all that a member needs the others for, forward and back (winograd.py), and the head, which one
computes. The numbers are those of descent.py, bit for bit, as every sum is taken in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from kshot_models.native import columns, winograd
from kshot_models.native.blocks import Sizes, first_filters, images_at_once, plan_of
from kshot_models.native.convolution import FEW_POSITIONS, convolve_task
from kshot_models.native.head import head_gradients
from kshot_models.native.instructions import WIDTH
from kshot_models.native.jit import (
    Array1,
    Array2,
    Array3,
    Array5,
    Indices,
    Table,
    carray,
    compiled,
    inlined,
    memory_for,
)
from kshot_models.native.meeting import call_off, meet
from kshot_models.native.normalization import constants, count_image, gradient_sums, gradient_values, moments_of
from kshot_models.native.readout import read_out, send_back
from kshot_models.native.scaling import scaled
from kshot_models.native.update import change_weights
from kshot_models.native.vectors import at

__all__ = ["Shared", "suits", "take_steps"]

_BYTES = 4


def suits(sizes: Sizes, members: int) -> bool:
    """Whether so many threads can share these blocks."""
    *_, last = plan_of(sizes).raw
    whole = all(outside % (members * WIDTH) == 0 for outside in sizes.outside)
    return whole and sizes.stride == 1 and last[1] * last[2] * last[3] > FEW_POSITIONS


class Shared(NamedTuple):
    """What the members of a team have in common besides what one would compute with alone."""

    members: int
    arrivals: Indices  # (1,); see meeting.py
    planes: Array2  # see winograd.Team
    of_features: Array2  # (n, features): the head's gradient, made by the first member

    @classmethod
    def of(cls, sizes: Sizes, members: int, features: tuple[int, ...]) -> Self:
        """New memory, for one descent."""
        pairs = zip(plan_of(sizes).raw[1:], sizes.outside, strict=False)
        counts = [winograd.shared_size(raw[1], raw[2], raw[3], max(inside, raw[4]) // members) for raw, inside in pairs]
        each = max(counts, default=0)
        planes = memory_for(4 * members * each).reshape(4 * members, each)
        return cls(members, np.zeros(1, np.int64), planes, np.empty(features, np.float32))

    def part(self, table: Table, *given: Any) -> Callable[[int], None]:  # as `take_steps` takes them
        """What each member is to do."""

        def take_part(member: int) -> None:
            of_team = self.members, self.arrivals.ctypes.data, self.planes.ctypes.data, self.planes.shape[1]
            try:
                take_steps(table, member, *of_team, *given)
            except BaseException:
                call_off(self.arrivals)
                raise

        return take_part


@compiled
def take_steps(
    table: Table,
    member: int,
    members: int,
    arrivals: int,
    planes: int,
    size: int,
    images: Array5,
    share: Array2,
    pool: bool,
    epsilon: np.float32,
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    in_loss: Array1,
    present: Array1,
    of_features: Array2,
    of_weight: Array2,
    of_bias: Array1,
    mean: bool,
    weights: Array1,
    gradients: Array1,
    ends: Indices,
    by_step: Array2,
    by_weight: Array1,
    moments: bool,
) -> None:
    """What a member does, beside all others; the arguments are those of `descend`'s kernels and of winograd.Team."""
    team = winograd.Team(member, members, arrivals, planes, size)
    n, blocks = images.shape[1], len(table)
    last = table[blocks - 1]
    own = features.shape[1] // members * member, features.shape[1] // members * (member + 1)
    of_blocks = (by_step[: 3 * blocks] != 0).any()
    turn, steps = 0, by_step.shape[1]
    for step in range(steps + moments):  # a last pass for the moments alone
        turn = _forward(table, team, images, share, pool, epsilon, turn)
        if step == steps:
            break
        out = _out(last, team, n, pool)
        read_out(out, mean, features[:, own[0] : own[1]])
        meet(arrivals, members)
        if member == 0:
            head_gradients(features, weight, bias, targets, in_loss, present, of_features, of_weight, of_bias)
        meet(arrivals, members)
        if of_blocks:
            grad = np.empty(out.shape, np.float32)
            send_back(of_features[:, own[0] : own[1]], mean, grad)
            turn = _back(table, team, images, share, grad, pool, epsilon, turn)
        part = member, members, 3 * blocks
        change_weights(weights, gradients, ends, by_step[:, step], by_weight, part)


@inlined
def _forward(
    table: Table, team: winograd.Team, images: Array5, share: Array2, pool: bool, epsilon: np.float32, turn: int
) -> int:
    n = images.shape[1]
    below = images
    for number in range(len(table)):
        row = table[number]
        raw, out, found = _raw(row, team, n), _out(row, team, n, pool), _found(row, team)
        channels = raw.shape[4]
        filters = _filters(row[columns.FILTERS], row, team)
        if number == 0:
            convolve_task(images[0], filters, 1, raw[0])
        else:
            turn = winograd.convolve_shared(below[0], filters, raw[0], team, turn)
        sums = np.zeros((3, channels), np.float64)
        for i in range(n):
            count_image(raw[0, i], share[0], i, sums)
        gain, bias = _channels(row[columns.GAIN], row, team), _channels(row[columns.BIAS], row, team)
        moments_of(sums, gain[0], bias[0], epsilon, found[:, 0])
        scaled(raw, found[2], found[3], pool, out)
        below = out
    return turn


@inlined
def _back(
    table: Table,
    team: winograd.Team,
    images: Array5,
    share: Array2,
    grad: Array5,
    pool: bool,
    epsilon: np.float32,
    turn: int,
) -> int:
    n = images.shape[1]
    for number in range(len(table) - 1, -1, -1):
        row = table[number]
        raw, found = _raw(row, team, n), _found(row, team)
        gain, bias = _channels(row[columns.GAIN], row, team), _channels(row[columns.BIAS], row, team)
        by, sums = constants(gain, bias, found[0], found[1], epsilon), np.empty((2, 1, raw.shape[4]), np.float32)
        gradient_sums(raw, by, grad, pool, sums)
        _channels(row[columns.SUMS], row, team)[:] = sums[0]
        _channels(row[columns.SUMS] + _BYTES * row[columns.OUTSIDE], row, team)[:] = sums[1]
        of_filters = _filters(row[columns.OF_FILTERS], row, team)
        if number == 0:
            part = images_at_once(row, n, 1)
            first_filters(images, raw, by, share, grad, pool, 1, sums, of_filters, part)
        else:
            below = _out(table[number - 1], team, n, pool)
            sent, passed = np.empty(raw.shape, np.float32), np.empty(below.shape, np.float32)
            gradient_values(raw, by, share, grad, pool, sums, sent)
            turn = winograd.gradients_shared(below[0], row[columns.FILTERS], sent[0], passed[0], of_filters, team, turn)
            grad = passed
    return turn


@inlined
def _raw(row: Indices, team: winograd.Team, n: int) -> Array5:
    shape = 1, n, row[columns.HEIGHT], row[columns.WIDTH], row[columns.OUTSIDE] // team.members
    return carray(at(row[columns.RAW] + _BYTES * team.member * _numbers(shape)), shape)


@inlined
def _out(row: Indices, team: winograd.Team, n: int, pool: bool) -> Array5:
    each = 2 if pool else 1
    height, width = row[columns.HEIGHT] // each, row[columns.WIDTH] // each
    shape = 1, n, height, width, row[columns.OUTSIDE] // team.members
    return carray(at(row[columns.OUT] + _BYTES * team.member * _numbers(shape)), shape)


@inlined
def _numbers(shape: tuple[int, int, int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2] * shape[3] * shape[4]


@inlined
def _found(row: Indices, team: winograd.Team) -> Array3:
    channels = row[columns.OUTSIDE] // team.members
    return carray(at(row[columns.FOUND] + _BYTES * 4 * channels * team.member), (4, 1, channels))


@inlined
def _filters(address: int, row: Indices, team: winograd.Team) -> Array2:
    channels, wide = row[columns.OUTSIDE] // team.members, 9 * row[columns.INSIDE]
    return carray(at(address + _BYTES * channels * wide * team.member), (channels, wide))


@inlined
def _channels(address: int, row: Indices, team: winograd.Team) -> Array2:
    channels = row[columns.OUTSIDE] // team.members
    return carray(at(address + _BYTES * channels * team.member), (1, channels))
