"""Newton-CG with a line search: the Hessian-free inner solver of iMAML (Rajeswaran et al., 2019, arXiv:1909.04630).

    f(phi) = L_S(phi) + strength / 2 |phi - phi_0|^2
    phi' = phi + t d,     d ~ -(H_f)^-1 grad f by conjugate gradients,     t = 1, 1/2, 1/4, ... the first that goes down

A step costs as much as 2 + 2 cg_steps gradients and `halvings` + 1 evaluations, whatever the values are: all lengths
are tried, for the tasks of one vmap cannot take branches of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vjp

from kshot_models.inner.conjugate_gradient import conjugate_gradient
from kshot_models.inner.proximal import pulled_back
from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective
from kshot_models.tree import tree_dot, tree_map
from kshot_models.types import Params

__all__ = ["newton_cg"]

# Armijo's condition: a step must gain this share of what the slope at its start promises.
_SUFFICIENT = 1e-4


def newton_cg(*, strength: float, cg_steps: int = 5, halvings: int = 8, damping: float = 0.0) -> InnerOptimizer:
    """Step towards the minimum of the regularised support loss; nothing is learned.

    It takes the place of a whole chain: it uses the objective and not the gradients that a link before it made. Meant
    to be meta-trained by `imaml`, which needs no derivative of it. That of `through_adaptation` exists (almost
    everywhere: the accepted length counts as a constant) but keeps all conjugate-gradient steps in memory.

    Args:
        strength: lambda in the paper, above 0, of the mean support loss.
        cg_steps: Hessian-vector products per step.
        halvings: how often the step may be halved; where even the shortest does not go down, phi stays.
        damping: added to the diagonal of the Hessian, for directions of little curvature.

    Raises:
        ValueError: an option out of its range; or, from `update`, no objective.
    """
    if strength <= 0 or damping < 0 or cg_steps < 1 or halvings < 0:
        raise ValueError(
            "expected strength above 0, damping of at least 0, cg_steps of at least 1 and halvings of at least 0; "
            f"got {strength}, {damping}, {cg_steps}, {halvings}"
        )

    def update(
        grads: Params, state: Params, params: Params, loss: Tensor, *, objective: Objective | None = None
    ) -> tuple[Params, Params]:
        del grads
        if objective is None:
            raise ValueError("newton_cg needs the objective: it evaluates the support loss along its direction")
        gradient: Params
        gradient, pull = vjp(grad(objective), params)  # type: ignore[misc]  # annotated with the has_aux form too

        def hessian(v: Params) -> Params:
            (product,) = pull(v)  # the Hessian is symmetric: v^T H is H v
            return tree_map(lambda h, u: h + (strength + damping) * u, product, v)

        def regularised(at: Params) -> Tensor:
            away = tree_map(torch.sub, at, state)
            return objective(at) + strength / 2 * tree_dot(away, away)

        slope = pulled_back(gradient, params, state, strength)
        direction = conjugate_gradient(hessian, tree_map(torch.neg, slope), steps=cg_steps).x
        away = tree_map(torch.sub, params, state)
        value, promised = loss + strength / 2 * tree_dot(away, away), tree_dot(slope, direction)
        length = torch.zeros_like(loss)
        for halving in range(halvings, -1, -1):  # from the shortest, so that the longest that goes down is kept
            t = 0.5**halving
            there = regularised(tree_map(lambda p, d, t=t: p + t * d, params, direction))
            length = torch.where(there <= value + _SUFFICIENT * t * promised, t, length)
        return tree_map(lambda d: length * d, direction), state

    return InnerOptimizer(
        lambda params, generator: {},
        lambda phi: GradientTransformation(lambda params: params, update),
        strength=strength,
        stands_alone=True,
    )
