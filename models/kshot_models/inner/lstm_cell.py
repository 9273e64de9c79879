"""An LSTM cell (Hochreiter and Schmidhuber, 1997) for very many cases that share its weights.

On a CPU in single precision one kernel computes it (fused_lstm_cell.py); elsewhere, and under the transforms of
torch.func other than vmap, primitives do, which have all derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.inner.fused_lstm_cell import fits, from_primitives, fused_lstm_cell
from kshot_models.types import Params

__all__ = ["init_lstm_cell", "lstm_cell"]


def init_lstm_cell(
    inputs: int, hidden: int, generator: torch.Generator, *, bound: float | None = None, forget_bias: float = 0.0
) -> Params:
    """Fresh weights, uniform in +-bound.

    Args:
        inputs: features of the input.
        hidden: units.
        generator: where the weights are drawn from.
        bound: None takes 1 / sqrt(hidden).
        forget_bias: added to the bias of the forget gates.

    Returns:
        weight_input (4 hidden, inputs), weight_hidden (4 hidden, hidden), bias (4 hidden,); the four blocks are the
        input gates, forget gates, candidates and output gates.
    """
    limit = hidden**-0.5 if bound is None else bound

    def draw(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) * limit

    bias = draw(4 * hidden)
    bias[hidden : 2 * hidden] += forget_bias
    return {"weight_input": draw(4 * hidden, inputs), "weight_hidden": draw(4 * hidden, hidden), "bias": bias}


def lstm_cell(weights: Params, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step: c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c').

    The n cases are the last axis: the four gates are then whole blocks of memory, and on a CPU several times faster.

    Args:
        weights: as `init_lstm_cell` makes them.
        inputs: (inputs, n).
        hidden: (hidden, n).
        cell: (hidden, n).

    Returns:
        h' and c', (hidden, n) each.
    """
    tensors = weights["weight_input"], weights["weight_hidden"], weights["bias"], inputs, hidden, cell
    return (fused_lstm_cell if fits(*tensors) else from_primitives)(*tensors)
