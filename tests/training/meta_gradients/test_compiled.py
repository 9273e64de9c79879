"""A compiled meta-gradient is the meta-gradient. Compiling itself is torch's and takes long: here it is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_models.losses import mean_squared_error
from kshot_models.types import Episode, Learner, MetaParams
from kshot_training import build
from kshot_training.data import SinusoidSampler
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients import Metrics, compiled, through_adaptation
from kshot_training.recipe import Recipe
from kshot_training.recipe_files import read_recipe

SMALL = ["learner.network.hidden=[3]", "episodes.tasks=2", "episodes.shot=2", "episodes.queries=2"]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """What was handed to torch.compile, which gives it back as it is."""
    seen: list[Callable[..., Any]] = []

    def keep(graph: Callable[..., Any]) -> Callable[..., Any]:
        seen.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", keep)
    return seen


def case(name: str, *overrides: str) -> tuple[Recipe, Learner, MetaParams]:
    recipe = read_recipe(name, [*SMALL, *overrides])
    learner = build.build_learner(recipe.learner, recipe.input)
    return recipe, learner, build.fresh_meta(learner, seed=0)


def waves(seed: int, tasks: int) -> Episode:
    return SinusoidSampler(shot=2, queries=2, seed=seed).sample(0, tasks)


@pytest.mark.parametrize("first_order", [True, False])
def test_the_trace_is_the_same_to_the_bit_and_made_once_for_each_size(
    first_order: bool, programs: list[Callable[..., Any]]
) -> None:
    _, learner, meta = case("sine-meta-sgd")
    plain = through_adaptation(batching="vmap", first_order=first_order, loss=mean_squared_error)
    program = compiled(plain)
    for seed, tasks, traced in ((1, 2, 1), (2, 2, 1), (3, 1, 2)):
        episodes = waves(seed, tasks)
        meta = meta._replace(init={name: p + 0.01 for name, p in meta.init.items()})
        found = program(learner, meta, episodes, way=1, generator=torch.Generator())
        expected = plain(learner, meta, episodes, way=1, generator=torch.Generator())
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert isinstance(found[0], MetaParams)
        assert isinstance(found[1], Metrics)
        assert len(programs) == traced
    longer = dataclasses.replace(learner, steps=2)  # type: ignore[type-var]  # a gradient learner
    program(longer, meta, episodes, way=1, generator=torch.Generator())
    assert len(programs) == 3


def test_a_recipe_may_ask_for_it(programs: list[Callable[..., Any]]) -> None:
    grads = []
    for wish in ("false", "true"):
        recipe, learner, meta = case("sine-fomaml", f"meta_gradient.compile={wish}")
        gradient = build.build_meta_gradient(recipe)(0)
        grads.append(gradient(learner, meta, waves(0, 2), way=1, generator=torch.Generator()))
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0, equal_nan=True)
    assert len(programs) == 1


def test_it_takes_tasks_together() -> None:
    with pytest.raises(RecipeError, match="batching = 'vmap'"):
        read_recipe("sine-maml", ["meta_gradient.compile=true", "meta_gradient.batching=loop"])
