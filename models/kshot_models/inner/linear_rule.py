"""The smallest learned rule: a step that is linear in gradient and weight, with one pair of scalars for all weights.

    theta' = theta + w_gradient * grad + w_weight * theta

Learned are a rate and a decay: (-lr, 0) is gradient descent, (-lr, -lr * lambda) adds weight decay. From "From zero to
research: an introduction to meta-learning" (Wolf, 2018, Hugging Face). Its gradients count as constants, which is the
learner's first-order form; theta stays in the graph, so that a pair is judged by all the steps that follow.

A weight that a network uses twice is one leaf: it has one gradient, the sum over its uses, and takes one step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective
from kshot_models.types import Params

__all__ = ["linear_rule"]


def linear_rule(*, rate: float) -> InnerOptimizer:
    """Learn (w_gradient, w_weight), started at (-rate, 0), which is gradient descent."""

    def init(params: Params, generator: torch.Generator) -> Params:
        del generator
        some = next(iter(params.values()))
        return {"gradient": some.new_tensor(-rate), "weight": some.new_zeros(())}

    def bind(phi: Params) -> GradientTransformation:
        def update(
            grads: Params, state: tuple[()], params: Params, loss: Tensor, *, objective: Objective | None = None
        ) -> tuple[Params, tuple[()]]:
            del loss, objective
            return {name: phi["gradient"] * g + phi["weight"] * params[name] for name, g in grads.items()}, state

        return GradientTransformation(lambda params: (), update)

    return InnerOptimizer(init, bind)
