"""How far probabilities can be trusted: likelihood, expected calibration error, and a temperature that mends them.

Reference: Guo et al., 2017, arXiv 1706.04599.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["BINS", "Reliability", "fit_temperature", "negative_log_likelihood", "reliability"]

BINS = 15


class Reliability(NamedTuple):
    """Queries by confidence, in `BINS` bins of equal width from 0 to 1."""

    counts: Tensor  # (bins,) queries
    confidence: Tensor  # (bins,) sum of the best probabilities
    correct: Tensor  # (bins,) number of right answers

    @property
    def expected_error(self) -> float:
        """ECE = sum_b |correct_b - confidence_b| / queries."""
        return float((self.correct - self.confidence).abs().sum() / self.counts.sum().clamp_min(1))


def reliability(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Reliability:
    """Bin answers by confidence.

    Args:
        logits: (queries, way).
        targets: (queries,) class indices.
        temperature: Divides the logits.
    """
    confidence, answers = (logits.double() / temperature).softmax(-1).max(-1)
    index = (confidence * BINS).long().clamp_max(BINS - 1)
    empty = torch.zeros(BINS, dtype=torch.float64)
    right = (answers == targets).double()
    return Reliability(
        empty.index_add(0, index, torch.ones_like(confidence)),
        empty.index_add(0, index, confidence),
        empty.index_add(0, index, right),
    )


def negative_log_likelihood(logits: list[Tensor], targets: list[Tensor], *, temperature: float = 1.0) -> float:
    """Mean over all queries of -log softmax(logits / temperature)[target]; one entry per episode, ways may differ."""
    total = sum(
        float(cross_entropy(episode.double() / temperature, target, reduction="sum"))
        for episode, target in zip(logits, targets, strict=True)
    )
    return total / sum(len(target) for target in targets)


def fit_temperature(logits: list[Tensor], targets: list[Tensor]) -> float:
    """The temperature of least negative log-likelihood, between 1/20 and 20, to a relative 1e-3.

    The negative log-likelihood is convex in 1 / temperature and so has one minimum, which golden-section search finds.
    """
    low, high = math.log(1 / 20), math.log(20)
    shrink = (math.sqrt(5) - 1) / 2

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(logits, targets, temperature=math.exp(log_temperature))

    left, right = high - shrink * (high - low), low + shrink * (high - low)
    cost_left, cost_right = cost(left), cost(right)
    while high - low > 1e-3:
        if cost_left < cost_right:
            high, right, cost_right = right, left, cost_left
            left = high - shrink * (high - low)
            cost_left = cost(left)
        else:
            low, left, cost_left = left, right, cost_right
            right = low + shrink * (high - low)
            cost_right = cost(right)
    return math.exp((low + high) / 2)
