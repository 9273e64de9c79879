"""Joint training: the query loss before any inner step, over all tasks at once. The baseline that only fine-tunes.

It learns the one function that is best for the average task; adapting from it is what meta-learning is compared with.
"""

from __future__ import annotations

import dataclasses

import torch

from kshot_models.learners import GradientLearner
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.types import Episode, Learner, MetaParams
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.counting import refuse_per_step
from kshot_training.meta_gradients.through_adaptation import through_adaptation

__all__ = ["joint"]


def joint(*, loss: Loss = weighted_cross_entropy, workers: int = 1) -> MetaGradient:
    """Make the gradient of the query loss at the start of the inner loop.

    Args:
        loss: Of outputs and weighted examples.
        workers: So many tasks side by side, each on a thread.
    """
    plain = through_adaptation(loss=loss, workers=workers)

    def meta_gradient(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        still = learner
        if isinstance(learner, GradientLearner):
            refuse_per_step(learner, "joint")
            still = dataclasses.replace(learner, steps=0)
        return plain(still, meta, episodes, way=way, generator=generator)

    return meta_gradient
