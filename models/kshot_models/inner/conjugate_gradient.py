"""Conjugate gradients on Params: solves A x = b from products A v alone, for a fixed number of steps.

Every choice is a torch.where and not a branch, so that one task's early end is one lane of a vmap. A lane ends where it
    - is solved to the rounding of its dtype, or
    - meets a direction p with p.Ap <= 0: there the quadratic has no minimum, and further steps would run away along it
      (networks with ReLU are indefinite). The iterate stays what it was: truncated as in Newton-CG (Steihaug, 1983).

Reference: Hestenes and Stiefel, 1952.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.tree import tree_dot, tree_map
from kshot_models.types import Params

__all__ = ["Solution", "conjugate_gradient"]


class Solution(NamedTuple):
    """What conjugate gradients came to; scalars without a graph of their own."""

    x: Params
    residual: Tensor  # () |b - A x| / |b|, by the recurrence; 0 where b is 0
    truncated: Tensor  # () 1 where a direction without positive curvature ended it, else 0


def conjugate_gradient(operator: Callable[[Params], Params], b: Params, *, steps: int) -> Solution:
    """Solve A x = b from x = 0.

    Args:
        operator: v -> A v, A symmetric.
        b: the right side.
        steps: at most so many products with A.

    Returns:
        the last iterate before an end. Where b itself has no positive curvature that would be 0, and it is b: the
        solution for A = 1, which a Newton step turns into steepest descent, iMAML into the first-order gradient.
    """
    x = tree_map(torch.zeros_like, b)
    r = p = b
    rr = b_square = tree_dot(b, b)
    zero, one = torch.zeros_like(rr), torch.ones_like(rr)
    solved = torch.finfo(rr.dtype).eps ** 2 * b_square
    going, truncated = one, zero  # 1 or 0
    for step in range(steps):
        going = torch.where(rr > solved, going, zero)
        ap = operator(p)
        curvature = tree_dot(p, ap)
        curved = curvature > 0
        # Divided by 1 where the quotient is not taken: a NaN there would reach gradients through the where.
        length = torch.where(curved, rr / torch.where(curved, curvature, one), one if step == 0 else zero) * going
        x = _along(x, length, p)
        r = _along(r, -length, ap)
        truncated = torch.where(curved, truncated, torch.maximum(truncated, going))
        going = torch.where(curved, going, zero)
        rr, before = tree_dot(r, r), rr
        p = _along(r, torch.where(before > 0, rr / torch.where(before > 0, before, one), zero), p)
    norm = torch.where(b_square > 0, b_square, one)
    return Solution(x, (rr / norm).sqrt(), truncated)


def _along(start: Params, length: Tensor, direction: Params) -> Params:
    return tree_map(lambda s, d: s + length * d, start, direction)
