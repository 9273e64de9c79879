"""A learned optimizer: an LSTM that reads each coordinate's gradient and writes its step.

    h_t, c_t = LSTM(preprocess(grad_t), h_{t-1}, c_{t-1})         theta_{t+1} = theta_t + scale * (w . h_t + b)

One small network for all coordinates, a state of its own for each: it learns momentum, step sizes and their schedule
from the problems that it was trained on (Andrychowicz et al., 2016, arXiv:1606.04474). The paper trains it with
gradients that count as constants: that is the learner's first-order form, not a part of the rule.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.inner.coordinates import coordinates, count_coordinates, log_and_sign, shaped_like
from kshot_models.inner.lstm_cell import init_lstm_cell, lstm_cell
from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective
from kshot_models.tree import prefixed, under
from kshot_models.types import Params

__all__ = ["LSTMState", "lstm"]


class LSTMState(NamedTuple):
    """What each coordinate remembers; one tensor a layer, in the order of the layers."""

    hidden: tuple[Tensor, ...]  # (hidden, coordinates) each
    cell: tuple[Tensor, ...]  # (hidden, coordinates) each


def lstm(*, hidden: tuple[int, ...] = (20, 20), p: float = 10.0, scale: float = 0.01) -> InnerOptimizer:
    """The coordinatewise LSTM.

    Args:
        hidden: units of each layer.
        p: of the preprocessing, see `log_and_sign`; 0 feeds the gradient as it is (the paper's quadratics).
        scale: multiplies the output, so that fresh weights take small steps (0.01 in the paper's code, 1 for the
            quadratics).

    Raises:
        ValueError: no layer, a p below 0, or a scale that is not above 0.
    """
    if not hidden or min(hidden) < 1 or scale <= 0 or p < 0:
        raise ValueError(
            f"expected layers of at least 1 unit, p of at least 0, scale above 0; got {hidden}, {p}, {scale}"
        )
    features = 2 if p else 1
    layers = [f"lstm{i}." for i in range(1, len(hidden) + 1)]

    def init(params: Params, generator: torch.Generator) -> Params:
        del params  # the rule is the same whatever it optimizes
        phi: Params = {}
        for name, inputs, units in zip(layers, (features, *hidden[:-1]), hidden, strict=True):
            phi |= prefixed(name, init_lstm_cell(inputs, units, generator, forget_bias=1.0))
        bound = hidden[-1] ** -0.5
        phi["output.weight"] = (2 * torch.rand(hidden[-1], generator=generator) - 1) * bound
        return phi | {"output.bias": torch.zeros(())}

    def bind(phi: Params) -> GradientTransformation:
        def start(params: Params) -> LSTMState:
            some, count = next(iter(params.values())), count_coordinates(params)
            # One 0, expanded: it takes no memory, and the first step need not multiply by it.
            zeros = tuple(some.new_zeros(()).expand(units, count) for units in hidden)
            return LSTMState(zeros, zeros)

        def update(
            grads: Params, state: LSTMState, params: Params, loss: Tensor, *, objective: Objective | None = None
        ) -> tuple[Params, LSTMState]:
            del params, loss, objective
            gradient = coordinates(grads)
            signal = log_and_sign(gradient, p) if p else gradient[None]
            hiddens, cells = [], []
            for name, before, cell in zip(layers, *state, strict=True):
                signal, after = lstm_cell(under(name, phi), signal, before, cell)
                hiddens.append(signal)
                cells.append(after)
            step = scale * (phi["output.weight"] @ signal + phi["output.bias"])
            return shaped_like(step, grads), LSTMState(tuple(hiddens), tuple(cells))

        return GradientTransformation(start, update)

    return InnerOptimizer(init, bind)
