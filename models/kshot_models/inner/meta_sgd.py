"""Meta-SGD: a learned step size for each weight (Li et al., 2017, arXiv:1707.09835)."""

from __future__ import annotations

import torch

from kshot_models.inner.transformation import InnerOptimizer, Rates, stateless
from kshot_models.tree import tree_map

__all__ = ["meta_sgd"]


def meta_sgd(*, rate: float) -> InnerOptimizer:
    """phi' = phi - alpha o grad, alpha shaped like phi, from `rate`; it may become negative, as in the paper."""
    return InnerOptimizer(
        init=lambda params, generator: tree_map(lambda p: torch.full_like(p, rate), params),
        bind=lambda alpha: stateless(lambda grads: {name: -alpha[name] * g for name, g in grads.items()}),
        rates=lambda alpha, name, steps: Rates(torch.ones(steps), alpha[name]),
    )
