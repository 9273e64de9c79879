"""Statistics that are counted while training, not learned by gradient: `MetaParams.stats`.

As in any batch normalization, queries are normalized by their own batch while training, and what they were normalized
by is counted; in use the running moments take its place, so that no query is looked at for another's answer.

    stats[k] <- stats[k] + momentum * (mean over tasks of the query batch's moments after step k - stats[k])

Of norm = "per_step" there is a row for each inner step k; of norm = "population" a single one, which in use normalizes
the support set too. While training, that is normalized by its own moments in both. With a momentum of 0 nothing is
counted, and training normalizes by the running moments as they are: those that a body brought along which is refined.

Only steps whose queries are answered count: with a loss on the last step alone, the other rows rest. A meta-gradient
returns the displacement momentum * (stats - mean) in the place of `stats`, for the outer loop to subtract as it is: a
mean over tasks or processes is right for it as for gradients, and nothing is changed in place.

Reference: Antoniou, Edwards and Storkey, 2019, arXiv:1810.09502. Their code counts such moments and normalizes by the
query batch all the same; that is the transductive evaluation of what is trained here, or norm = "transductive".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor

from kshot_models.learners import ClosedFormLearner, ContextLearner, GradientLearner
from kshot_models.manifest import NormMode
from kshot_models.per_step import query_row
from kshot_models.types import Examples, Learner, MetaParams, Params, TaskParams
from kshot_training.errors import RecipeError

__all__ = ["Counted", "answer_counting", "counting_form", "displacement", "refuse_counting"]

Counted: TypeAlias = Mapping[int, Params]  # moments (channels,) by row


def counting_form(learner: Learner, *, counting: bool) -> Learner:
    """The learner as it adapts while training: one of norm = "population" by moments of its own, others as they are."""
    return dataclasses.replace(learner, norm="transductive") if counting and _counts(learner, "population") else learner


def answer_counting(
    learner: Learner, meta: MetaParams, task: TaskParams, query: Examples, *, taken: int, counting: bool = True
) -> tuple[Tensor, Counted]:
    """The logits of training queries after `taken` inner steps, and what to count: nothing for most learners."""
    if not counting or not _counts(learner, "per_step", "population"):
        return learner.predict(meta, task, query.inputs, query.weights), {}
    by_batch = dataclasses.replace(learner, norm="transductive")
    logits, moments = by_batch.answer(meta, task, query.inputs, query.weights)
    return logits, {query_row(taken): {name: moment.detach() for name, moment in moments.items()}}


def _counts(learner: Learner, *modes: NormMode) -> TypeGuard[GradientLearner | ClosedFormLearner | ContextLearner]:
    return isinstance(learner, GradientLearner | ClosedFormLearner | ContextLearner) and learner.norm in modes


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


def refuse_counting(learner: Learner, name: str) -> None:
    """Refuse a learner that keeps something for each inner step, or counts moments of all training images.

    Args:
        learner: what is to be trained.
        name: the meta-gradient that takes other steps than the learner, or does not differentiate through them.

    Raises:
        RecipeError: with what to take instead.
    """
    if isinstance(learner, GradientLearner) and learner.per_step:
        raise RecipeError(
            f"meta_gradient.type = {name!r} cannot train per_step_gains or norm = 'per_step', which belong to the "
            "inner steps: use 'through_adaptation', or leave them out"
        )
    if _counts(learner, "population"):
        raise RecipeError(
            f"meta_gradient.type = {name!r} counts no moments for norm = 'population': use 'through_adaptation', or "
            "another norm"
        )
