"""Statistics that are counted while training, not learned by gradient: `MetaParams.stats` of norm = "per_step".

As in any batch normalization, queries are normalized by their own batch while training, and what they were normalized
by is counted; in use the running moments take its place, so that no query is looked at for another's answer.

    stats[k] <- stats[k] + momentum * (mean over tasks of the query batch's moments after step k - stats[k])

Only steps whose queries are answered count: with a loss on the last step alone, the other rows rest. A meta-gradient
returns the displacement momentum * (stats - mean) in the place of `stats`, for the outer loop to subtract as it is: a
mean over tasks or processes is right for it as for gradients, and nothing is changed in place.

Reference: Antoniou, Edwards and Storkey, 2019, arXiv:1810.09502. Their code counts such moments and normalizes by the
query batch all the same; that is the transductive evaluation of what is trained here, or norm = "transductive".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from kshot_models.learners import GradientLearner
from kshot_models.per_step import query_row
from kshot_models.types import Examples, Learner, MetaParams, Params, TaskParams
from kshot_training.errors import RecipeError

__all__ = ["Counted", "answer_counting", "displacement", "refuse_per_step"]

Counted = Mapping[int, Params]  # moments (channels,) by row


def answer_counting(
    learner: Learner, meta: MetaParams, task: TaskParams, query: Examples, *, taken: int
) -> tuple[Tensor, Counted]:
    """The logits of training queries after `taken` inner steps, and what to count: nothing for most learners."""
    if not isinstance(learner, GradientLearner) or learner.norm != "per_step":
        return learner.predict(meta, task, query.inputs, query.weights), {}
    by_batch = dataclasses.replace(learner, norm="transductive")
    logits, moments = by_batch.answer(meta, task, query.inputs, query.weights)
    return logits, {query_row(taken): {name: moment.detach() for name, moment in moments.items()}}


def displacement(stats: Params, counted: Counted, *, momentum: float) -> Params:
    """momentum * (stats - counted), shaped like `stats`: 0 in rows of which nothing was counted."""
    return {
        name: torch.stack(
            [
                momentum * (old - counted[row][name]) if row in counted else torch.zeros_like(old)
                for row, old in enumerate(table)
            ]
        )
        for name, table in stats.items()
    }


def refuse_per_step(learner: GradientLearner, name: str) -> None:
    """Refuse a learner that keeps something for each inner step.

    Args:
        learner: what is to be trained.
        name: the meta-gradient that takes other steps than the learner, or does not differentiate through them.

    Raises:
        RecipeError: with what to take instead.
    """
    if learner.per_step:
        raise RecipeError(
            f"meta_gradient.type = {name!r} cannot train per_step_gains or norm = 'per_step', which belong to the "
            "inner steps: use 'through_adaptation', or leave them out"
        )
