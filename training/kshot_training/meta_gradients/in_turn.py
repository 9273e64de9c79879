"""The gradient of the query loss where each image of a class is the support set in its turn.

    images of a class   a b c d      turn 0   support a   queries b c d
                                     turn 1   support b   queries c d a        ... and the mean over all turns
    (n = shot + queries)

For learners without inner steps, whose work is the embedding: all images of an episode are embedded once, as one batch,
and every turn is another episode of them. An episode that is an unbiased sample of the loss becomes the mean of n such
samples, of less variance, at the price of one. Moments of norm = "population" are those of the whole batch.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from kshot_models.learners import ClosedFormLearner, ContextLearner
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.networks.identity import identity
from kshot_models.population import population_moments
from kshot_models.tree import prefixed, under
from kshot_models.types import Episode, Examples, Learner, MetaParams
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.tasks import Batching, accuracy, task_map
from kshot_training.meta_gradients.through_adaptation import Judged, gradient_over_tasks

__all__ = ["in_turn"]

_NORMS = "population", "group", "none"  # by which an embedding does not depend on what is in the support set


def in_turn(
    *,
    norm_momentum: float = 0.1,
    batching: Batching = "loop",
    chunk_size: int | None = None,
    workers: int = 1,
    loss: Loss = weighted_cross_entropy,
) -> MetaGradient:
    """Make the meta-gradient mean_tasks mean_turns d/d theta L_Q(turn).

    Every class of an episode has to have all its images: no place may be padding.

    Args:
        norm_momentum: The share of new moments in the running ones, of norm = "population"; 0 counts none.
        batching: See `through_adaptation`.
        chunk_size: Likewise.
        workers: Likewise.
        loss: Of logits and weighted examples, a mean over examples.
    """
    run = task_map(workers)

    def meta_gradient(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        del generator  # nothing here is random
        if not isinstance(learner, ClosedFormLearner | ContextLearner) or learner.norm not in _NORMS:
            raise RecipeError(
                "meta_gradient.type = 'in_turn' embeds all images of an episode at once: it needs a learner without "
                f"inner steps (prototype, ridge, matching, snail) and a norm of {', '.join(_NORMS)}"
            )
        return gradient_over_tasks(
            partial(_mean_over_turns, learner, way=way, loss=loss, counting=norm_momentum > 0),
            meta,
            episodes,
            norm_momentum=norm_momentum,
            batching=batching,
            chunk_size=chunk_size,
            run=run,
        )

    return meta_gradient


def _mean_over_turns(
    learner: ClosedFormLearner | ContextLearner,
    meta: MetaParams,
    episode: Episode,
    *,
    way: int,
    loss: Loss,
    counting: bool,
) -> Judged:
    support, query = episode
    inputs = torch.cat([part.inputs.reshape(way, -1, *part.inputs.shape[1:]) for part in episode], 1)  # (way, n, *x)
    shot, n = len(support.targets) // way, inputs.shape[1]
    body = under("body.", meta.init)
    given = None if counting else population_moments(meta, learner.norm)
    flat, used = learner.network.apply(body, inputs.flatten(0, 1), weights=None, moments=given)
    features = flat.view(way, n, -1)
    alike = dataclasses.replace(learner, network=identity(learner.network.features), norm="none")
    of_head = MetaParams(prefixed("head.", under("head.", meta.init)), {}, {})
    losses, right = [], []
    for turn in range(n):
        turned = features.roll(-turn, 1)
        seen, asked = turned[:, :shot].flatten(0, 1), turned[:, shot:].flatten(0, 1)
        task = alike.adapt(of_head, Examples(seen, support.targets, support.weights), way=way)
        logits = alike.predict(of_head, task, asked)
        losses.append(loss(logits, query))
        right.append(accuracy(logits.detach(), query))
    counts = counting and learner.norm == "population"
    counted = {0: {name: moment.detach() for name, moment in used.items()}} if counts else {}
    return Judged(torch.stack(losses).mean(), torch.stack(right).mean(), counted)
