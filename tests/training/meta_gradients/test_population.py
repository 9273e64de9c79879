"""What is counted for norm = "population", against moments by numpy, and who refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kshot_models.types import Episode, Examples, MetaParams
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients import in_turn, joint, through_adaptation

Make = Callable[..., Any]
WAY = 3
KINDS: dict[str, dict[str, Any]] = {
    "prototype": {"type": "prototype", "head": {"type": "prototype"}},
    "matching": {"type": "matching", "head": {"type": "matching"}},
}


def run(gradient: Any, learner: Any, meta: MetaParams, episodes: Episode) -> Any:
    return gradient(learner, meta, episodes, way=WAY, generator=torch.Generator())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_the_query_batch_is_counted(kind: str, batching: Any, make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(**KINDS[kind], inner=[], steps=0, norm="population")
    episodes = make_episodes(tasks=3, way=WAY)
    grads, _ = run(through_adaptation(norm_momentum=0.25, batching=batching), learner, meta, episodes)
    seen = [F.conv2d(each, meta.init["body.conv1.weight"], padding=1).numpy() for each in episodes.query.inputs]
    for what, values in (
        ("mean", [each.mean((0, 2, 3)) for each in seen]),
        ("variance", [each.var((0, 2, 3)) for each in seen]),
    ):
        moved = 0.25 * (meta.stats[f"norm1.{what}"][0].numpy() - np.mean(values, 0))
        np.testing.assert_allclose(grads.stats[f"norm1.{what}"][0].numpy(), moved, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_by_the_batch_and_looks_at_no_running_moments(
    kind: str, make_case: Make, make_episodes: Make
) -> None:
    learner, meta = make_case(**KINDS[kind], inner=[], steps=0, norm="population")
    by_batch, _ = make_case(**KINDS[kind], inner=[], steps=0, norm="transductive")
    episodes = make_episodes(way=WAY)
    one, told = run(through_adaptation(), learner, meta, episodes)
    other, seen = run(through_adaptation(), by_batch, meta._replace(stats={}), episodes)
    assert told == seen
    assert all(torch.equal(one.init[name], other.init[name]) for name in one.init)


def test_joint_training_refuses_it(make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(**KINDS["prototype"], inner=[], steps=0, norm="population")
    with pytest.raises(RecipeError, match="counts no moments for norm = 'population'"):
        run(joint(), learner, meta, make_episodes(way=WAY))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", [through_adaptation, in_turn])
def test_with_no_momentum_training_goes_by_the_moments_that_there_are(
    kind: str, gradient: Any, make_case: Make, make_episodes: Make
) -> None:
    learner, meta = make_case(**KINDS[kind], inner=[], steps=0, norm="population")
    episodes = make_episodes(tasks=1, way=WAY)
    grads, told = run(gradient(norm_momentum=0.0), learner, meta, episodes)
    assert all(not moved.any() for moved in grads.stats.values())
    if gradient is through_adaptation:  # its metrics are those of use
        support, query = (Examples(*(t[0] for t in part)) for part in episodes)
        logits = learner.predict(meta, learner.adapt(meta, support, way=WAY), query.inputs)
        torch.testing.assert_close(told.loss, F.cross_entropy(logits, query.targets))
    counting, _ = run(gradient(), learner, meta, episodes)
    assert not torch.allclose(counting.init["body.conv1.weight"], grads.init["body.conv1.weight"], rtol=1e-3)
