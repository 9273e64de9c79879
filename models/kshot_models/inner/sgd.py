"""Gradient descent with a fixed rate: the inner loop of MAML (Finn et al., 2017, arXiv:1703.03400)."""

from __future__ import annotations

from functools import lru_cache

import torch

from kshot_models.inner.transformation import InnerOptimizer, Rates, stateless
from kshot_models.tree import tree_scale

__all__ = ["sgd"]


def sgd(*, rate: float) -> InnerOptimizer:
    """phi' = phi - rate * grad, for the gradient of the mean loss; nothing is learned."""

    @lru_cache(maxsize=8)
    def rates(steps: int) -> Rates:
        return Rates(torch.full((steps,), rate))

    return InnerOptimizer(
        init=lambda params, generator: {},
        bind=lambda phi: stateless(lambda grads: tree_scale(grads, -rate)),
        rates=lambda phi, name, steps: rates(steps),
    )
