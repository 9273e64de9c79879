"""Classifiers of points from Gaussians: small objectives that are seen whole, without mini-batches.

    logistic    two classes, one Gaussian each; a linear classifier:    convex
    clusters    two classes, two Gaussians each; a network of one layer of ReLUs and a cross-entropy:    not convex

Each task has Gaussians of its own, with random means and covariances, and points drawn from them. The loss is the mean
over all of its points with a small penalty, `decay` / 2 |theta|^2.

Reference: Li and Malik, 2016, arXiv 1606.01885: problems of these kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from kshot_models.types import Params
from kshot_training.problems.base import Problem

__all__ = ["ClusterNetworks", "LogisticRegressions"]


@dataclass(frozen=True, kw_only=True)
class LogisticRegressions:
    """A family of logistic regressions.

    Args:
        dimensions: of a point; theta has one more, the bias.
        points: of a task, half of each class.
        decay: of the penalty.
        seed: of all draws.
    """

    dimensions: int = 3
    points: int = 100
    decay: float = 5e-4
    seed: int = 0

    def draw(self, number: int, tasks: int) -> Problem:
        """See ProblemFamily."""
        generator = torch.Generator().manual_seed((self.seed << 32) + number)
        points = gaussian_points(tasks, 2, self.points // 2, self.dimensions, generator)  # (tasks, points, dimensions)
        signs = torch.tensor([1.0, -1.0]).repeat_interleave(self.points // 2)
        start = {
            "weight": torch.randn(tasks, self.dimensions, generator=generator),
            "bias": torch.randn(tasks, generator=generator),
        }

        def losses(params: Params, step: int) -> Tensor:
            del step  # no mini-batches: every step sees all points
            logits = (points.to(params["weight"]) @ params["weight"][..., None])[..., 0] + params["bias"][:, None]
            # -log sigmoid of the logit, with the sign of the class: the second one is at positive logits.
            each: Tensor = softplus(signs.to(logits) * logits).mean(1)
            return each + _penalty(params, self.decay)

        return Problem(start, losses)


@dataclass(frozen=True, kw_only=True)
class ClusterNetworks:
    """A family of small networks.

    Args:
        hidden: units.
        dimensions: of a point.
        points: of a task, a quarter from each Gaussian.
        decay: of the penalty.
        start_scale: weights start at normal(0, start_scale^2 / inputs), biases at 0.
        seed: of all draws.
    """

    hidden: int = 8
    dimensions: int = 2
    points: int = 100
    decay: float = 5e-4
    start_scale: float = 1.0
    seed: int = 0

    def draw(self, number: int, tasks: int) -> Problem:
        """See ProblemFamily."""
        generator = torch.Generator().manual_seed((self.seed << 32) + number)
        points = gaussian_points(tasks, 4, self.points // 4, self.dimensions, generator)
        targets = torch.arange(4).remainder(2).repeat_interleave(self.points // 4).expand(tasks, -1)  # (tasks, points)

        def weight(outputs: int, inputs: int) -> Tensor:
            scale: float = self.start_scale * inputs**-0.5
            return scale * torch.randn(tasks, outputs, inputs, generator=generator)

        start = {
            "hidden.weight": weight(self.hidden, self.dimensions),
            "hidden.bias": torch.zeros(tasks, self.hidden),
            "output.weight": weight(2, self.hidden),
            "output.bias": torch.zeros(tasks, 2),
        }

        def losses(params: Params, step: int) -> Tensor:
            del step  # as above
            inputs = points.to(params["hidden.weight"])
            units = (inputs @ params["hidden.weight"].mT + params["hidden.bias"][:, None]).relu()
            logits = units @ params["output.weight"].mT + params["output.bias"][:, None]
            each: Tensor = cross_entropy(logits.mT, targets, reduction="none").mean(1)
            return each + _penalty(params, self.decay)

        return Problem(start, losses)


def gaussian_points(tasks: int, gaussians: int, points: int, dimensions: int, generator: torch.Generator) -> Tensor:
    """Points of Gaussians with means normal(0, 1) and covariances A A^T, A normal(0, 1 / dimensions).

    Returns:
        (tasks, gaussians * points, dimensions), one Gaussian after another.
    """
    means = torch.randn(tasks, gaussians, 1, dimensions, generator=generator)
    scale: float = dimensions**-0.5
    roots = scale * torch.randn(tasks, gaussians, dimensions, dimensions, generator=generator)
    white = torch.randn(tasks, gaussians, points, dimensions, generator=generator)
    return (means + white @ roots.mT).flatten(1, 2)


def _penalty(params: Params, decay: float) -> Tensor:
    squares = [leaf.square().reshape(len(leaf), -1).sum(1) for leaf in params.values()]
    total: Tensor = torch.stack(squares).sum(0)
    return decay / 2 * total
