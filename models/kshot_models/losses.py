"""Losses over examples of which some are padding. Means, so that inner rates do not depend on the support size."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from kshot_models.types import Examples

__all__ = ["Loss", "mean_squared_error", "weighted_cross_entropy"]


class Loss(Protocol):
    """Outputs of a learner and the examples that they are for -> a scalar."""

    def __call__(self, outputs: Tensor, examples: Examples) -> Tensor:
        """The mean over the examples of weight 1."""
        ...


def weighted_cross_entropy(outputs: Tensor, examples: Examples) -> Tensor:
    """sum_i w_i * -log softmax(outputs_i)[target_i] / sum_i w_i, for logits (n, way)."""
    losses = nn.functional.cross_entropy(outputs, examples.targets, reduction="none")
    return _weighted_mean(losses, examples.weights)


def mean_squared_error(outputs: Tensor, examples: Examples) -> Tensor:
    """sum_i w_i * (output_i - target_i)^2 / sum_i w_i, for outputs (n, 1) or (n,)."""
    return _weighted_mean((outputs.reshape(examples.targets.shape) - examples.targets).square(), examples.weights)


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    # A set of nothing but padding has loss 0, not NaN: vmap runs it beside real ones.
    return torch.dot(losses, weights) / weights.sum().clamp_min(1)
