"""LSLR: a learned step size for each tensor and each step (Antoniou et al., 2019, arXiv:1810.09502)."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective, Rates
from kshot_models.types import Params

__all__ = ["lslr"]


def lslr(*, rate: float, steps: int) -> InnerOptimizer:
    """phi' = phi - alpha[tensor][step] * grad, each alpha started at `rate`.

    Args:
        rate: the start of every rate.
        steps: length of the table; a step beyond it uses the last entry.
    """

    def bind(alpha: Params) -> GradientTransformation:
        def update(
            grads: Params, state: int, params: Params, loss: Tensor, *, objective: Objective | None = None
        ) -> tuple[Params, int]:
            del params, loss, objective
            row = min(state, steps - 1)
            return {name: -alpha[name][row] * g for name, g in grads.items()}, state + 1

        return GradientTransformation(lambda params: 0, update)

    def init(params: Params, generator: torch.Generator) -> Params:
        del generator
        return {name: p.new_full((steps,), rate) for name, p in params.items()}

    def rates(alpha: Params, name: str, taken: int) -> Rates:
        return Rates(alpha[name][torch.arange(taken).clamp(max=steps - 1)])

    return InnerOptimizer(init, bind, rates=rates)
