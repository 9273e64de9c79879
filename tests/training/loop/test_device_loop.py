"""The loop that takes many steps at once: the same numbers as the loop that takes them one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_models.load import meta_to_arrays
from kshot_training import build
from kshot_training.device_loop import device_loop, steps_at_once
from kshot_training.errors import NonFiniteError
from kshot_training.outer_loop import OuterState, StepMetrics, outer_loop
from kshot_training.recipe import Recipe
from kshot_training.sampling import Place, recipe_episodes

Make = Callable[..., Recipe]
STEPS, AT_ONCE = 5, 2
REPTILE = {
    "meta_gradient": {"type": "reptile", "batch": 3, "steps": 2, "batching": "vmap"},
    "learner.inner": [{"type": "adam", "rate": 0.01, "beta1": 0.0, "carry_moments": True}],
    "outer.optimizer": "sgd",
}
SMOOTH = {"outer.epsilon": 0.01}  # Adam divides by gradients that are nothing but rounding
CASES: dict[str, dict[str, Any]] = {
    "averaged and clipped": {
        "outer.average_decay": 0.9,
        "outer.clip_norm": 0.01,
        "outer.schedule": {"type": "cosine"},
        **SMOOTH,
    },
    "annealed": {"meta_gradient": {"type": "through_adaptation", "batching": "vmap", "first_order_until": 3}, **SMOOTH},
    "planned": REPTILE,
}


def run(loop: Callable[..., Any], recipe: Recipe, place: Place, **more: Any) -> tuple[list[StepMetrics], OuterState]:
    learner = build.build_learner(recipe.learner, recipe.input)
    state = build.build_state(build.fresh_meta(learner, seed=recipe.seed), recipe.outer)
    steps = loop(
        state,
        learner,
        recipe_episodes(recipe, place).train,
        build.build_meta_gradient(recipe),
        steps=STEPS,
        schedule=build.build_schedule(recipe.outer.schedule, steps=recipe.outer.steps),
        seed=recipe.seed,
        clipping=build.build_clipping(recipe.outer),
        average_decay=recipe.outer.average_decay,
        **more,
    )
    return list(steps), state


@pytest.mark.parametrize("case", CASES)
def test_the_same_numbers_as_step_by_step(case: str, make_recipe: Make, place: Place) -> None:
    recipe = make_recipe(**{"meta_gradient.batching": "vmap", **CASES[case]})
    expected, straight = run(outer_loop, recipe, place)
    found, ahead = run(device_loop, recipe, place, at_once=AT_ONCE)
    assert [row.step for row in found] == [row.step for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row[1:5] == pytest.approx(other[1:5], rel=1e-4)
    for name, tensor in meta_to_arrays(straight.meta).items():
        torch.testing.assert_close(meta_to_arrays(ahead.meta)[name], tensor, rtol=1e-4, atol=1e-5)
    settled = [row.step for row in found if row.settled]
    assert settled == ([2, 3, 4, 5] if case == "annealed" else [2, 4, 5])


def test_a_broken_step_is_named(make_recipe: Make, place: Place) -> None:
    recipe = make_recipe(**{"meta_gradient.batching": "vmap", "outer.learning_rate": 1e30})
    with pytest.raises(NonFiniteError, match=r"step 1\b"):
        run(device_loop, recipe, place, at_once=4)


def test_no_period_ends_between_what_is_taken_at_once() -> None:
    assert steps_at_once(500, 2000) == 100
    assert steps_at_once(7) == 7
    assert steps_at_once(30, 45) == 15
    assert steps_at_once(101) == 1
