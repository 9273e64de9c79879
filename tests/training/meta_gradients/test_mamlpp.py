"""MAML++ part by part: at its neutral value each is MAML exactly, and running moments are what they are said to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kshot_models.per_step import is_norm
from kshot_models.types import Episode, MetaParams, Params
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients import MetaGradient, Metrics, imaml, joint, reptile, through_adaptation

WAY, STEPS = 3, 2
ADAPT = ("*.conv*", "head.*")
LSLR = [{"type": "lslr", "rate": 0.3, "steps": STEPS}]
Make = Callable[..., Any]


def run(gradient: MetaGradient, learner: Any, meta: MetaParams, episodes: Episode) -> tuple[MetaParams, Metrics]:
    return gradient(learner, meta, episodes, way=WAY, generator=torch.Generator())


def with_equal_rows(plain: MetaParams, tables: MetaParams) -> MetaParams:
    """The meta-parameters of MAML++ that are those of MAML: each gain for all steps, one rate for all."""
    init = {name: p.expand(STEPS, -1) if is_norm(name) else p for name, p in plain.init.items()}
    assert {name: p.shape for name, p in init.items()} == {name: p.shape for name, p in tables.init.items()}
    return MetaParams(init, {name: torch.full_like(rates, 0.3) for name, rates in tables.inner.items()}, tables.stats)


@pytest.mark.parametrize("head", [{"type": "linear", "way": WAY}, {"type": "prototype"}])
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_with_every_part_neutral_it_is_maml(
    head: dict[str, Any], batching: Any, make_case: Make, make_episodes: Make
) -> None:
    episodes = make_episodes(tasks=2, way=WAY)
    # Training normalizes queries by their batch, as MAML's paper does.
    maml, meta = make_case(head=head, adapt=ADAPT, norm="transductive", inner=[{"type": "sgd", "rate": 0.3}])
    plus, tables = make_case(head=head, norm="per_step", per_step_gains=True, inner=LSLR)
    expected, told = run(through_adaptation(), maml, meta, episodes)
    parts = through_adaptation(step_weights=(0.0, 1.0), batching=batching)
    grads, seen = run(parts, plus, with_equal_rows(meta, tables), episodes)
    torch.testing.assert_close(seen, told, rtol=1e-12, atol=0)
    for name, grad in expected.init.items():
        # One gain for all steps has the sum of the rows' gradients.
        found = grads.init[name].sum(0) if is_norm(name) else grads.init[name]
        torch.testing.assert_close(found, grad, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("rows", ["alike", "apart"])
def test_the_gains_of_a_step_have_their_own_gradient(rows: str, make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(per_step_gains=True, inner=LSLR)
    if rows == "alike":
        meta = meta._replace(init={n: p[:1].expand_as(p) if is_norm(n) else p for n, p in meta.init.items()})
    grads, _ = run(through_adaptation(), learner, meta, make_episodes(way=WAY))
    first, last = grads.init["body.norm1.gain"]
    assert first.abs().max() > 1e-6
    assert not torch.allclose(first, last, rtol=1e-2)


# ---- running moments


def batch_moments(meta: MetaParams, fast: Params, episodes: Episode, task: int) -> tuple[Any, Any]:
    """Of the first norm's inputs, by numpy."""
    features = F.conv2d(episodes.query.inputs[task], fast["weights.body.conv1.weight"], padding=1).numpy()
    return features.mean((0, 2, 3)), features.var((0, 2, 3))


@pytest.mark.parametrize("weights", [None, (0.0, 1.0), (0.4, 0.6)])
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_what_is_counted(weights: Any, batching: Any, make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(norm="per_step", inner=LSLR, adapt=ADAPT)
    episodes = make_episodes(tasks=3, way=WAY)
    counting = through_adaptation(step_weights=weights, norm_momentum=0.25, batching=batching)
    grads, _ = run(counting, learner, meta, episodes)
    seen: dict[int, list[tuple[Any, Any]]] = {0: [], 1: []}
    for task in range(3):
        support = type(episodes.support)(*(t[task] for t in episodes.support))
        for row, fast in enumerate([*learner.trajectory(meta, support, way=WAY)][1:]):
            seen[row].append(batch_moments(meta, fast, episodes, task))
    for row in (0, 1):
        for what, values in zip(("mean", "variance"), zip(*seen[row], strict=True), strict=True):
            before = meta.stats[f"norm1.{what}"][row].numpy()
            moved = 0.25 * (before - np.mean(values, 0)) if row == 1 or weights == (0.4, 0.6) else np.zeros(3)
            np.testing.assert_allclose(grads.stats[f"norm1.{what}"][row].numpy(), moved, rtol=1e-9, atol=1e-12)


def test_running_moments_are_not_looked_at_while_training(make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(norm="per_step", inner=LSLR)
    episodes = make_episodes(way=WAY)
    moved = meta._replace(stats={name: 3 + table for name, table in meta.stats.items()})
    (one, told), (other, seen) = (run(through_adaptation(), learner, at, episodes) for at in (meta, moved))
    assert (one.init.keys(), told) == (other.init.keys(), seen)
    assert all(torch.equal(one.init[name], other.init[name]) for name in one.init)


@pytest.mark.parametrize("what", [{"norm": "per_step"}, {"per_step_gains": True}])
@pytest.mark.parametrize("gradient", [reptile(batch=2), joint(), imaml(strength=1.0)])
def test_who_takes_other_steps_refuses(what: Any, gradient: MetaGradient, make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(**what)
    with pytest.raises(RecipeError, match="use 'through_adaptation'"):
        run(gradient, learner, meta, make_episodes(way=WAY))
