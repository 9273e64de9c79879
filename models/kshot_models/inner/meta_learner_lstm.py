"""The Meta-Learner LSTM: a learner's weights are the cell state of an LSTM whose gates are learned.

    h, c  = LSTM([preprocess(loss), preprocess(grad)], h, c)                   per coordinate, weights shared
    f~    = W_F [h, theta, f~_prev] + b_F          i~ = W_I [h, theta, i~_prev] + b_I
    theta = sigmoid(f~) theta - sigmoid(i~) grad                               the raw gradient

Four things that are easily missed (Ravi and Larochelle, 2017, "Optimization as a model for few-shot learning", and its
code): the gates are fed what they were *before* the sigmoid; the loss is an input beside the gradient, preprocessed
alike; the step takes the gradient without preprocessing; the start of the cell state is learned, which here are the
learner's own meta-parameters. Gates start near f = 0.99 and i = 0.01. The published code divides the gradient by the
batch size once more; here it is that of the mean loss, and b_I says how large a step is.

A state for every coordinate costs many times the learner itself. Gates may therefore be shared by the coordinates of a
row (along a tensor's first axis) or of a whole tensor; they then see mean absolute values of gradient and theta.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from kshot_models.inner.coordinates import coordinates, log_and_sign
from kshot_models.inner.lstm_cell import init_lstm_cell, lstm_cell
from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective
from kshot_models.tree import prefixed, under
from kshot_models.types import Params

__all__ = ["MetaLearnerLSTMState", "meta_learner_lstm"]

Sharing: TypeAlias = Literal["coordinate", "row", "tensor"]

_BOUND = 0.01  # of all fresh weights, as published


class MetaLearnerLSTMState(NamedTuple):
    """What each coordinate, row or tensor remembers."""

    hidden: Tensor  # (hidden, gates) of the first LSTM
    cell: Tensor  # (hidden, gates)
    forget: Tensor  # (gates,) f~ of the step before, before the sigmoid
    input: Tensor  # (gates,) i~ likewise


def meta_learner_lstm(
    *,
    hidden: int = 20,
    p: float = 10.0,
    forget_bias: tuple[float, float] = (4.0, 5.0),
    input_bias: tuple[float, float] = (-5.0, -4.0),
    gates: Sharing = "coordinate",
) -> InnerOptimizer:
    """Two LSTMs, the second of which has the fast weights for its cell.

    Args:
        hidden: units of the first LSTM.
        p: of the preprocessing, see `log_and_sign`.
        forget_bias: b_F is drawn uniformly from these bounds; 4 to 5 lets 98 to 99 % of a weight pass.
        input_bias: b_I likewise; -5 to -4 are rates of 0.007 to 0.018.
        gates: who has gates of its own.

    Raises:
        ValueError: no units, a p that is not above 0, or bounds in the wrong order.
    """
    if hidden < 1 or p <= 0 or forget_bias[0] > forget_bias[1] or input_bias[0] > input_bias[1]:
        raise ValueError(
            "expected at least 1 unit, p above 0 and bounds (low, high); "
            f"got {hidden}, {p}, {forget_bias}, {input_bias}"
        )

    def init(params: Params, generator: torch.Generator) -> Params:
        del params  # the rule is the same whatever it optimizes
        return _fresh_rule(hidden, forget_bias, input_bias, generator)

    def bind(phi: Params) -> GradientTransformation:
        def start(params: Params) -> MetaLearnerLSTMState:
            some, count = next(iter(params.values())), sum(_count(leaf, gates) for leaf in params.values())
            # One 0, expanded: it takes no memory, and the first step need not multiply by it.
            zeros, closed = some.new_zeros(()).expand(hidden, count), some.new_zeros(count)
            return MetaLearnerLSTMState(zeros, zeros, closed, closed)

        def update(
            grads: Params,
            state: MetaLearnerLSTMState,
            params: Params,
            loss: Tensor,
            *,
            objective: Objective | None = None,
        ) -> tuple[Params, MetaLearnerLSTMState]:
            del objective
            gradient, theta = (_seen({name: tree[name] for name in grads}, gates) for tree in (grads, params))
            seen = log_and_sign(loss, p)[:, None].expand(2, len(gradient))
            signal = torch.cat([seen, log_and_sign(gradient, p)])
            h, cell = lstm_cell(under("lstm.", phi), signal, state.hidden, state.cell)
            f, i = _gates(phi, h, theta, state)
            # theta' - theta, with 1 - sigmoid(f) = sigmoid(-f): a gate that is all but open keeps its digits.
            lost, taken = (_spread(gate, grads, gates) for gate in (torch.sigmoid(-f), torch.sigmoid(i)))
            updates = {name: -lost[name] * params[name] - taken[name] * grad for name, grad in grads.items()}
            return updates, MetaLearnerLSTMState(h, cell, f, i)

        return GradientTransformation(start, update)

    return InnerOptimizer(init, bind)


def _fresh_rule(
    hidden: int, forget_bias: tuple[float, float], input_bias: tuple[float, float], generator: torch.Generator
) -> Params:
    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    return {
        **prefixed("lstm.", init_lstm_cell(4, hidden, generator, bound=_BOUND)),
        "forget.weight": draw(-_BOUND, _BOUND, hidden + 2),
        "forget.bias": draw(*forget_bias, 1)[0],
        "input.weight": draw(-_BOUND, _BOUND, hidden + 2),
        "input.bias": draw(*input_bias, 1)[0],
    }


def _gates(phi: Params, h: Tensor, theta: Tensor, state: MetaLearnerLSTMState) -> tuple[Tensor, Tensor]:
    """f~ and i~, (gates,) each, of h (hidden, gates), theta (gates,) and what they were the step before."""
    weights = torch.stack([phi["forget.weight"], phi["input.weight"]])  # (2, hidden + 2)
    bias = torch.stack([phi["forget.bias"], phi["input.bias"]])
    before = torch.stack([state.forget, state.input])
    units = len(h)
    both = weights[:, :units] @ h + weights[:, units, None] * theta + weights[:, units + 1, None] * before
    f, i = (both + bias[:, None]).unbind()
    return f, i


def _count(leaf: Tensor, sharing: Sharing) -> int:
    """How many gates a tensor has."""
    if sharing == "coordinate":
        return leaf.numel()
    return leaf.shape[0] if sharing == "row" and leaf.ndim else 1


def _seen(tree: Params, sharing: Sharing) -> Tensor:
    """What the gates are shown of a tree, (gates,): its coordinates, or mean absolute values of rows or tensors."""
    if sharing == "coordinate":
        return coordinates(tree)
    return torch.cat([leaf.abs().reshape(_count(leaf, sharing), -1).mean(1) for leaf in tree.values()])


def _spread(gate: Tensor, tree: Params, sharing: Sharing) -> Params:
    """A gate (gates,) as something that multiplies each tensor of a tree."""
    parts = torch.split(gate, [_count(leaf, sharing) for leaf in tree.values()])
    shapes = [leaf.shape if sharing == "coordinate" else (-1, *(1,) * (leaf.ndim - 1)) for leaf in tree.values()]
    return {
        name: part.reshape(shape if leaf.ndim else ())
        for (name, leaf), part, shape in zip(tree.items(), parts, shapes, strict=True)
    }
