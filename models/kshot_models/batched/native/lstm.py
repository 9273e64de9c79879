"""One step of an LSTM on very many cases, in blocks that stay in a processor's caches: see inner/lstm_cell.py.

    gates = W [x; 1; h]      c' = sigmoid(f) c + sigmoid(i) tanh(g)      h' = sigmoid(o) tanh(c')

The weights are few and the cases are many, so gates and all that is between stay in a block, are never written, and are
computed again on the way back. The gradient of the weights is summed up in single precision within a block and in
double precision over blocks, in their order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.tensors import array
from kshot_models.native.gates import through_gates, through_gates_gradient
from kshot_models.native.instructions import BYTES, WIDTH
from kshot_models.native.jit import Array2, Array3, Sums, compiled, inlined
from kshot_models.native.products import multiply
from kshot_models.native.vectors import turn_block

__all__ = ["lstm_step", "lstm_step_gradient"]

_BLOCK = 256  # cases of a block
_DOWN = _BLOCK + 16  # numbers from row to row: a power of two would put all rows into the same places of a cache
_ROUND = 2 * WIDTH  # to what columns are filled up


def lstm_step(weights: Tensor, inputs: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """h' and c' of many cases.

    Args:
        weights: (4 hidden, inputs + 1 + hidden): of the inputs, the bias, and of the hidden units.
        inputs: (tasks, inputs, n).
        state: h and c, (tasks, hidden, n) each; None for 0.

    Returns:
        (tasks, hidden, n) each.
    """
    tasks, _, n = inputs.shape
    hidden, cell = (torch.empty(tasks, len(weights) // 4, n) for _ in range(2))
    _step(array(weights), array(inputs), *_given(state), array(hidden), array(cell))
    return hidden, cell


def lstm_step_gradient(
    weights: Tensor,
    inputs: Tensor,
    state: tuple[Tensor, Tensor] | None,
    grads: tuple[Tensor | None, Tensor | None],
    *,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of the weights, the inputs, h and c.

    Args:
        weights: as for `lstm_step`.
        inputs: likewise.
        state: likewise.
        grads: of h' and c'; None for 0.
        wanted: whether those of the inputs are, and those of h and c.
    """
    shape = (len(inputs), len(weights) // 4, inputs.shape[-1])
    of_weights = torch.empty(weights.shape)
    of_inputs = torch.empty(inputs.shape) if wanted[0] else None
    of_hidden, of_cell = (torch.empty(shape) if wanted[1] else None for _ in range(2))
    grad_hidden, grad_cell = map(_or_nothing, grads)
    results = array(of_weights), _or_nothing(of_inputs), _or_nothing(of_hidden), _or_nothing(of_cell)
    _gradient(array(weights), array(inputs), *_given(state), grad_hidden, grad_cell, *results)
    return of_weights, of_inputs, of_hidden, of_cell


_NOTHING = np.empty((0, 0, 0), np.float32)


def _or_nothing(tensor: Tensor | None) -> Array3:
    return _NOTHING if tensor is None else array(tensor)


def _given(state: tuple[Tensor, Tensor] | None) -> tuple[Array3, Array3]:
    return (_NOTHING, _NOTHING) if state is None else (array(state[0]), array(state[1]))


@compiled
def _step(
    weights: Array2, inputs: Array3, hidden: Array3, cell: Array3, hidden_after: Array3, cell_after: Array3
) -> None:
    tasks, units, n = hidden_after.shape
    across = weights.shape[1]
    inner = across if hidden.size else inputs.shape[1] + 1
    seen, gates = np.zeros((across, _DOWN), np.float32), np.empty((4 * units, _DOWN), np.float32)
    cells = np.zeros((units, _DOWN), np.float32)
    hiddens_out, cells_out = np.empty((units, _DOWN), np.float32), np.empty((units, _DOWN), np.float32)
    left, right, into = weights.ctypes.data, seen.ctypes.data, gates.ctypes.data
    out = hiddens_out.ctypes.data, cells_out.ctypes.data
    together, wide = max(1, _BLOCK // max(n, 1)), max(1, min(n, _BLOCK))
    for task in range(0, tasks, together):
        for column in range(0, n, wide):
            block = task, min(together, tasks - task), column, min(wide, n - column)
            filled = _take(inputs, hidden, cell, block, seen, cells)
            multiply(left, across, 1, right, _DOWN, into, _DOWN, 4 * units, inner, filled, False)
            through_gates(into, cells.ctypes.data, out[0], out[1], units, _DOWN, filled)
            _scatter(hiddens_out, block, hidden_after)
            _scatter(cells_out, block, cell_after)


@compiled
def _gradient(
    weights: Array2,
    inputs: Array3,
    hidden: Array3,
    cell: Array3,
    grad_hidden: Array3,
    grad_cell: Array3,
    of_weights: Array2,
    of_inputs: Array3,
    of_hidden: Array3,
    of_cell: Array3,
) -> None:
    tasks, features, n = inputs.shape
    across, units = weights.shape[1], weights.shape[0] // 4
    inner = across if hidden.size else features + 1
    padded = (inner + WIDTH - 1) // WIDTH * WIDTH
    seen, gates = np.zeros((padded, _DOWN), np.float32), np.empty((4 * units, _DOWN), np.float32)
    cells, to_hidden = np.zeros((units, _DOWN), np.float32), np.zeros((units, _DOWN), np.float32)
    to_cell, back = np.zeros((units, _DOWN), np.float32), np.empty((max(features, units), _DOWN), np.float32)
    total = np.zeros((4 * units, padded), np.float64)
    left, right, into, sent = weights.ctypes.data, seen.ctypes.data, gates.ctypes.data, back.ctypes.data
    together, wide = max(1, _BLOCK // max(n, 1)), max(1, min(n, _BLOCK))
    for task in range(0, tasks, together):
        for column in range(0, n, wide):
            block = task, min(together, tasks - task), column, min(wide, n - column)
            filled = _take(inputs, hidden, cell, block, seen, cells)
            multiply(left, across, 1, right, _DOWN, into, _DOWN, 4 * units, inner, filled, False)
            _gather(grad_hidden, block, to_hidden, 0)
            to_cell[:] = np.float32(0.0)  # it has become the gradient of another block's c
            _gather(grad_cell, block, to_cell, 0)
            of = to_hidden.ctypes.data, to_cell.ctypes.data
            through_gates_gradient(into, cells.ctypes.data, of[0], of[1], units, _DOWN, filled)
            _add_outer(gates, seen, filled, total)
            if of_inputs.size:
                multiply(left, 1, across, into, _DOWN, sent, _DOWN, features, 4 * units, filled, False)
                _scatter(back, block, of_inputs)
            if of_hidden.size:
                start = left + BYTES * (features + 1)
                multiply(start, 1, across, into, _DOWN, sent, _DOWN, units, 4 * units, filled, False)
                _scatter(back, block, of_hidden)
                _scatter(to_cell, block, of_cell)
    of_weights[:] = np.float32(0.0)  # of hidden units that were 0, too
    for row in range(4 * units):
        for place in range(inner):
            of_weights[row, place] = total[row, place]


@inlined
def _take(
    inputs: Array3, hidden: Array3, cell: Array3, block: tuple[int, int, int, int], seen: Array2, cells: Array2
) -> int:
    """Fill [x; 1; h] and c of a block; how many columns that is, rounded up."""
    features = inputs.shape[1]
    filled = (block[1] * block[3] + _ROUND - 1) // _ROUND * _ROUND
    _gather(inputs, block, seen, 0)
    seen[features, :filled] = np.float32(1.0)
    _gather(hidden, block, seen, features + 1)
    _gather(cell, block, cells, 0)
    return filled


@inlined
def _add_outer(gates: Array2, seen: Array2, columns: int, total: Sums) -> None:
    """Add gates seen' to the total."""
    rows, padded = len(gates), len(seen)
    turned, part = np.empty((columns, padded), np.float32), np.empty((rows, padded), np.float32)
    for row in range(0, padded, WIDTH):
        for column in range(0, columns, WIDTH):
            source = seen.ctypes.data + BYTES * (row * _DOWN + column)
            turn_block(source, _DOWN, turned.ctypes.data + BYTES * (column * padded + row), padded)
    places = gates.ctypes.data, turned.ctypes.data, part.ctypes.data
    multiply(places[0], _DOWN, 1, places[1], padded, places[2], padded, rows, columns, padded, False)
    for row in range(rows):
        for place in range(padded):
            total[row, place] += part[row, place]


@inlined
def _gather(source: Array3, block: tuple[int, int, int, int], into: Array2, row: int) -> None:
    """The columns of a block next to each other as rows of `into` from `row` on, and 0 up to the next round number.

    A block is (first task, tasks, first column, columns of each). Of a source that is nothing, nothing is done.
    """
    task, tasks, column, width = block
    columns = tasks * width
    for r in range(source.shape[1]):
        for t in range(tasks):
            for c in range(width):
                into[row + r, t * width + c] = source[task + t, r, column + c]
        for c in range(columns, (columns + _ROUND - 1) // _ROUND * _ROUND):
            into[row + r, c] = np.float32(0.0)


@inlined
def _scatter(source: Array2, block: tuple[int, int, int, int], into: Array3) -> None:
    """The inverse of `_gather`."""
    task, tasks, column, width = block
    for r in range(into.shape[1]):
        for t in range(tasks):
            for c in range(width):
                into[task + t, r, column + c] = source[r, t * width + c]
