"""Random quadratics, f(theta) = |W theta - y|^2 with Gaussian W and y: where learned optimizers are shown first.

Reference: Andrychowicz et al., 2016, arXiv 1606.04474, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_models.types import Params
from kshot_training.problems.base import Problem

__all__ = ["Quadratics"]


@dataclass(frozen=True, kw_only=True)
class Quadratics:
    """A family of quadratics.

    Args:
        dimensions: of theta; W is square.
        start_scale: theta starts at normal(0, start_scale^2).
        seed: of all draws.
    """

    dimensions: int = 10
    start_scale: float = 0.01
    seed: int = 0

    def draw(self, number: int, tasks: int) -> Problem:
        """See ProblemFamily."""
        generator = torch.Generator().manual_seed((self.seed << 32) + number)
        w = torch.randn(tasks, self.dimensions, self.dimensions, generator=generator)
        y = torch.randn(tasks, self.dimensions, generator=generator)
        theta = self.start_scale * torch.randn(tasks, self.dimensions, generator=generator)

        def losses(params: Params, step: int) -> Tensor:
            del step  # no mini-batches: every step sees the whole problem
            residual = (w.to(params["theta"]) @ params["theta"][..., None])[..., 0] - y.to(params["theta"])
            return residual.square().sum(-1)

        return Problem({"theta": theta}, losses)
