"""Blocks and a linear head for tasks, with all done beforehand that images do not change.

    logits = W blocks(images) + b     x_l = relu(pool(gain_l (w_l * x_{l-1} - mean_l) / sqrt(variance_l + e) + bias_l))

A session is asked many times, often for one image: then looking up its weights takes longer than computing with them.
What is kept are addresses; nothing is made that would live as long as the session. Many sessions that are asked at once
are one call: between their images there is nothing of Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kshot_models.native.blocks import (
    Keep,
    Sizes,
    out_of,
    plan_of,
    point_to_block,
    run_forward,
)
from kshot_models.native.jit import (
    Array,
    Array1,
    Array2,
    Array4,
    Array5,
    Indices,
    Table,
    address_of,
    carray,
    compiled,
    inlined,
)
from kshot_models.native.readout import read_out
from kshot_models.native.vectors import at

__all__ = ["Classifier", "classify"]

_BYTES = 4
_NOTHING = np.float32(0.0)
_PARAMS = 5  # of a block


class Classifier:
    """A function of images. Thread-safe.

    Args:
        params: filters (outside, 3, 3, inside), gain, bias, mean and variance (outside,) of each block, one after the
            other; referred to where they are contiguous, copied where not.
        weight: of the head, (way, features); features are in the order channels, height, width.
        bias: (way,).
        stride: of the convolutions.
        pool: whether maxima of 2x2 positions are taken.
        epsilon: added to variances.
        mean: the head has the mean over positions in place of all positions.

    Raises:
        TypeError: something is not float32.
    """

    def __init__(
        self,
        params: Sequence[Array],
        weight: Array2,
        bias: Array1,
        *,
        stride: int,
        pool: bool,
        epsilon: float,
        mean: bool,
    ) -> None:
        self._held = [np.ascontiguousarray(each) for each in (*params, weight, bias)]
        self.kind = tuple(len(filters) for filters in params[::_PARAMS]), stride, pool, epsilon, mean
        self.way = len(bias)
        # Where everything is: the parameters of the blocks, weight and bias of the head.
        self.row = np.array([*map(address_of, self._held), self.way], np.int64)

    def __call__(self, images: Array4) -> Array2:
        """images (n, height, width, channels) -> logits (n, way)."""
        return classify([self], images, [len(images)])[0]


def classify(classifiers: Sequence[Classifier], images: Array4, counts: Sequence[int]) -> list[Array2]:
    """Logits of each, of one kind: the first has the first counts[0] images, and so on."""
    outside, stride, pool, epsilon, mean = classifiers[0].kind
    images = np.ascontiguousarray(images)
    plan = plan_of(Sizes((1, *images.shape[1:]), outside, stride, pool, Keep.NOTHING))
    rows = np.stack([each.row for each in classifiers])
    sizes = [count * each.way for count, each in zip(counts, classifiers, strict=True)]
    logits = np.empty(sum(sizes), np.float32)
    given = rows, np.array(counts, np.int64), plan.table, address_of(images)
    _classify(*given, images[:1].size, stride, pool, np.float32(epsilon), mean, logits)
    parts, start = list[Array2](), 0
    for size, count in zip(sizes, counts, strict=True):
        parts.append(logits[start : start + size].reshape(count, -1))
        start += size
    return parts


@compiled
def _classify(
    rows: Table,
    counts: Indices,
    sizes: Table,
    images: int,
    each: int,
    stride: int,
    pool: bool,
    epsilon: np.float32,
    mean: bool,
    logits: Array1,
) -> None:
    blocks, table = len(sizes), sizes.copy()
    channels, values = 0, 0
    for number in range(blocks):
        shape = out_of(table[number], 1, stride, pool).shape
        channels += shape[4]
        values += shape[2] * shape[3] * shape[4]
    by, memory = np.empty(2 * channels, np.float32), np.empty(counts.max() * values, np.float32)
    first, done = images, 0
    for item in range(len(counts)):
        row, n = rows[item], counts[item]
        factor, out = 0, 0
        for number in range(blocks):
            given = out_of(table[number], n, stride, pool)
            shift = factor + given.shape[4]
            end = shift + given.shape[4]
            params = row[_PARAMS * number : _PARAMS * (number + 1)]
            _fold(params, epsilon, by[factor:shift], by[shift:end])
            point_to_block(
                table[number], params[0], by[factor:].ctypes.data, by[shift:].ctypes.data, memory[out:].ctypes.data
            )
            factor, out = end, out + given.size
        # Of examples' shares only moments would be made.
        run_forward(table, first, first, n, stride, pool, _NOTHING, True)
        way = row[_PARAMS * blocks + 2]
        last = out_of(table[blocks - 1], n, stride, pool)
        _score(last, row[_PARAMS * blocks :], mean, logits[done : done + n * way].reshape(n, way))
        first += _BYTES * n * each
        done += n * way


@inlined
def _fold(params: Indices, epsilon: np.float32, factor: Array1, shift: Array1) -> None:
    """Normalization by given moments is a factor and a shift."""
    count = len(factor)
    gain, bias = carray(at(params[1]), (count,)), carray(at(params[2]), (count,))
    mean, variance = carray(at(params[3]), (count,)), carray(at(params[4]), (count,))
    for c in range(count):
        factor[c] = gain[c] / np.sqrt(variance[c] + epsilon)
        shift[c] = bias[c] - mean[c] * factor[c]


@inlined
def _score(out: Array5, head: Indices, mean: bool, logits: Array2) -> None:
    """The head, of the last block's output."""
    _, n, height, width, channels = out.shape
    features = np.empty((n, channels if mean else channels * height * width), np.float32)
    read_out(out, mean, features)
    weight, bias = carray(at(head[0]), (logits.shape[1], features.shape[1])), carray(at(head[1]), (logits.shape[1],))
    for i in range(n):
        for k in range(len(bias)):
            total = np.float32(0.0)
            for j in range(weight.shape[1]):
                total += weight[k, j] * features[i, j]
            logits[i, k] = total + bias[k]
