"""Joint training: the query loss before any inner step, over all tasks at once. The baseline that only fine-tunes.

    regression        the one function that is best for the average task
    classification    one classifier of all training classes (all_classes.py), whose body is kept

Adapting from where this leads is what meta-learning is compared with. Without a classifier of all classes, joint
training on images would ask for labels that mean something else in each episode.
"""

from __future__ import annotations

import dataclasses

import torch

from kshot_models.learners import GradientLearner
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.types import Episode, Learner, MetaParams
from kshot_training.meta_gradients.all_classes import all_classes
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.counting import refuse_counting
from kshot_training.meta_gradients.tasks import Batching
from kshot_training.meta_gradients.through_adaptation import through_adaptation

__all__ = ["joint"]


def joint(
    *,
    loss: Loss = weighted_cross_entropy,
    batching: Batching = "loop",
    chunk_size: int | None = None,
    workers: int = 1,
) -> MetaGradient:
    """Make the gradient of the query loss at the start of the inner loop.

    Where the meta-parameters hold a classifier of all training classes, it is the gradient of its loss, and the
    targets of the queries are the numbers of their classes (`NumberedClasses`). The learner's own head then gets zeros.

    Args:
        loss: Of outputs and weighted examples.
        batching: "loop" takes one task at a time, "vmap" takes them as one computation.
        chunk_size: With "vmap", at most so many tasks at once.
        workers: With "loop", so many tasks side by side, each on a thread.
    """
    plain = through_adaptation(loss=loss, batching=batching, chunk_size=chunk_size, workers=workers)

    def meta_gradient(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        refuse_counting(learner, "joint")
        still: Learner = learner
        if isinstance(learner, GradientLearner):
            still = dataclasses.replace(learner, steps=0)
        return plain(all_classes(learner, meta) or still, meta, episodes, way=way, generator=generator)

    return meta_gradient
