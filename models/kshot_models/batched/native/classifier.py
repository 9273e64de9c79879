"""Blocks and a linear head for one task, with all done beforehand that images do not change.

    logits = W blocks(images) + b     x_l = relu(pool(gain_l (w_l * x_{l-1} - mean_l) / sqrt(variance_l + e) + bias_l))

A session is asked many times, often for one image: then looking up its weights takes longer than computing with them.
What is kept are addresses; nothing is made that would live as long as the session.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.blocks import Keep, Sizes, address_of, plan_of, point_to_values, run_forward
from kshot_models.batched.native.descent import read_out
from kshot_models.batched.native.jit import Array1, Array2, Array5, Table, array, carray, compiled
from kshot_models.batched.native.vectors import at

__all__ = ["Classifier"]

_BYTES = 4
_NOTHING = np.float32(0.0)
_COUNTED = np.array([0, 1, 1])  # filters have addresses


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
        params: Sequence[Tensor],
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int,
        pool: bool,
        epsilon: float,
        mean: bool,
    ) -> None:
        self._params = tuple(each.contiguous() for each in params)
        addresses = np.array([address_of(each) for each in self._params], np.int64).reshape(-1, 5)
        self._outside = tuple(len(filters) for filters in self._params[::5])
        outside = np.array(self._outside)
        self._norms = np.column_stack([addresses[:, 1:], outside])  # (blocks, 5)
        # Of each block: where its filters are, and its factor and shift, counted from the first one's factor.
        first = 2 * _BYTES * (np.cumsum(outside) - outside)
        self._places = np.column_stack([addresses[:, 0], first, first + _BYTES * outside])
        self._constants = 2 * sum(self._outside)
        self._stride, self._pool, self._epsilon, self._mean = stride, pool, np.float32(epsilon), mean
        self._weight, self._bias = array(weight), array(bias)

    def __call__(self, images: Tensor) -> Tensor:
        """images (n, height, width, channels) -> logits (n, way)."""
        images = images.contiguous()
        n = len(images)
        sizes = Sizes(images.shape, self._outside, self._stride, self._pool, Keep.NOTHING)
        plan = plan_of(sizes)
        values, table, by = torch.empty(plan.size), plan.table.copy(), np.empty(self._constants, np.float32)
        _fold(self._norms, self._epsilon, by)
        point_to_values(table, self._places + by.ctypes.data * _COUNTED, values, sizes)
        address = address_of(images)
        # Of examples' shares only moments would be made.
        run_forward(table, address, address, n, self._stride, self._pool, _NOTHING, True)
        out = plan.out[-1]
        last = values.numpy()[plan.places[-1, 1] :][: n * out[2] * out[3] * out[4]].reshape(out)
        logits = np.empty((n, len(self._bias)), np.float32)
        _score(last, self._weight, self._bias, self._mean, logits)
        return torch.from_numpy(logits)


@compiled
def _fold(norms: Table, epsilon: np.float32, by: Array1) -> None:
    """Normalization by given moments is a factor and a shift."""
    first = 0
    for number in range(len(norms)):
        count = norms[number, 4]
        gain, bias = carray(at(norms[number, 0]), (count,)), carray(at(norms[number, 1]), (count,))
        mean, variance = carray(at(norms[number, 2]), (count,)), carray(at(norms[number, 3]), (count,))
        for c in range(count):
            factor = gain[c] / np.sqrt(variance[c] + epsilon)
            by[first + c] = factor
            by[first + count + c] = bias[c] - mean[c] * factor
        first += 2 * count


@compiled
def _score(out: Array5, weight: Array2, bias: Array1, mean: bool, logits: Array2) -> None:
    features = np.empty((len(logits), weight.shape[1]), np.float32)
    read_out(out, mean, features)
    for i in range(len(logits)):
        for k in range(len(bias)):
            total = np.float32(0.0)
            for j in range(weight.shape[1]):
                total += weight[k, j] * features[i, j]
            logits[i, k] = total + bias[k]
