"""A pull back to the start, as a link before a rule that takes steps: the inner problem of iMAML.

    [proximal, sgd]     phi' = phi - rate * (grad L_S(phi) + strength * (phi - phi_0))

descends on L_S(phi) + strength / 2 |phi - phi_0|^2, whose minimum depends on phi_0 however many steps are taken: the
implicit gradient is defined there (Rajeswaran et al., 2019, arXiv:1909.04630).
"""

from __future__ import annotations

from torch import Tensor

from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective
from kshot_models.tree import tree_map
from kshot_models.types import Params

__all__ = ["proximal", "pulled_back"]


def proximal(*, strength: float) -> InnerOptimizer:
    """Add strength * (phi - phi_0) to the gradients, phi_0 being the fast weights before the first step.

    Args:
        strength: lambda in the paper, above 0, of the mean support loss.

    Raises:
        ValueError: a strength that does not pull back.
    """
    if strength <= 0:
        raise ValueError(f"strength must be above 0, got {strength}")

    def update(
        grads: Params, state: Params, params: Params, loss: Tensor, *, objective: Objective | None = None
    ) -> tuple[Params, Params]:
        del loss, objective
        return pulled_back(grads, params, state, strength), state

    return InnerOptimizer(
        lambda params, generator: {},
        lambda phi: GradientTransformation(lambda params: params, update),
        strength=strength,
    )


def pulled_back(grads: Params, params: Params, start: Params, strength: float) -> Params:
    """The gradient of the regularised loss: grads + strength * (params - start)."""
    return tree_map(lambda g, p, s: g + strength * (p - s), grads, params, start)
