"""A regression judged along its inner steps: the mean squared error of the queries after some numbers of them.

All episodes of a chunk take their steps as one computation: on a network of a few numbers each, one at a time would
spend its time in Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.learners import GradientLearner
from kshot_models.losses import mean_squared_error
from kshot_models.types import Episode, Examples, MetaParams
from kshot_training.outer_loop import Sample

__all__ = ["StepError", "errors_by_steps"]

_CHUNK = 100  # episodes that are adapted together


class StepError(NamedTuple):
    """After a number of inner steps."""

    mse: float  # mean over episodes
    ci95: float  # half the width of the 95% interval


def errors_by_steps(
    learner: GradientLearner, meta: MetaParams, sample: Sample, *, episodes: int, steps: Sequence[int]
) -> dict[int, StepError]:
    """Measure the first `episodes` episodes of `sample` on one trajectory of max(steps) inner steps each.

    Args:
        learner: A regression; its own number of steps does not count.
        meta: Its meta-parameters.
        sample: `sample(i)` gives a batch of episodes of one size.
        episodes: At least 2, for there to be an interval.
        steps: After how many inner steps to look, 0 for none.
    """
    long = replace(learner, steps=max(steps))
    wanted = frozenset(steps)

    def along(episode: Episode) -> Tensor:
        support, query = episode
        path = enumerate(long.trajectory(meta, support, way=1))
        seen = [long.predict(meta, task, query.inputs, query.weights) for taken, task in path if taken in wanted]
        return torch.stack([mean_squared_error(outputs, query) for outputs in seen])

    first = sample(0).episodes
    batches = math.ceil(episodes / len(first.query.targets))
    drawn = [first, *(sample(index).episodes for index in range(1, batches))]
    together = Episode(*(Examples(*map(torch.cat, zip(*part, strict=True))) for part in zip(*drawn, strict=True)))
    with torch.no_grad():
        losses = torch.func.vmap(along, chunk_size=_CHUNK)(together)[:episodes].double()
    half = 1.96 * losses.std(0) / math.sqrt(episodes)
    means = zip(sorted(wanted), losses.mean(0).tolist(), half.tolist(), strict=True)
    return {taken: StepError(mse, ci95) for taken, mse, ci95 in means}
