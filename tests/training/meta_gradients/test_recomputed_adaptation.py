"""Inner steps that are computed again give the meta-gradient of those that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_models.load import meta_to_arrays
from kshot_training.errors import RecipeError
from kshot_training.meta_gradient_sections import ThroughAdaptation
from kshot_training.meta_gradients import through_adaptation

WAY, STEPS = 3, 5
EXACT: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"inner": [{"type": "adam", "rate": 0.02}]},
    "lslr": {"inner": [{"type": "lslr", "rate": 0.2, "steps": STEPS}]},
    "lstm": {"inner": [{"type": "lstm", "hidden": (5, 4), "scale": 0.1}]},
    "meta-learner lstm": {"inner": [{"type": "meta_learner_lstm", "hidden": 5, "input_bias": (-1.5, -1.0)}]},
    "linear rule": {"inner": [{"type": "linear_rule", "rate": 0.3}]},
}
# Weights that stay are read by the inner steps and by the queries, and the start by every pull back to it: the same
# terms in another order.
ROUNDED: dict[str, dict[str, Any]] = {
    "proximal": {"inner": [{"type": "proximal", "strength": 0.5}, {"type": "sgd", "rate": 0.3}]},
    "anil": {"adapt": ("head.*",)},
    "prototype, body only": {"head": {"type": "prototype"}, "adapt": ("body.*",)},
}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_equals_the_plain_gradient_bit_for_bit(
    name: str, first_order: bool, make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    learner, meta = make_case(steps=STEPS, **EXACT[name])
    episodes = make_episodes(way=WAY)

    def run(recompute: int | None) -> dict[str, torch.Tensor]:
        gradient = through_adaptation(first_order=first_order, recompute=recompute)
        return meta_to_arrays(gradient(learner, meta, episodes, way=WAY, generator=torch.Generator())[0])

    plain = run(None)
    for length in (0, 1, 2, STEPS):  # 0 takes the root of the number of steps
        again = run(length)
        assert all(torch.equal(again[key], grad) for key, grad in plain.items()), length


@pytest.mark.parametrize("name", ROUNDED)
def test_equals_the_plain_gradient_up_to_the_order_of_a_sum(
    name: str, make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    learner, meta = make_case(steps=STEPS, **ROUNDED[name])
    episodes = make_episodes(way=WAY)
    plain, again = (
        through_adaptation(recompute=length)(learner, meta, episodes, way=WAY, generator=torch.Generator())[0]
        for length in (None, 2)
    )
    for key, grad in meta_to_arrays(plain).items():
        torch.testing.assert_close(meta_to_arrays(again)[key], grad, rtol=1e-10, atol=1e-13)


def test_refuses_what_it_cannot_do(make_case: Callable[..., Any], make_episodes: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="one by one"):
        ThroughAdaptation(type="through_adaptation", recompute=0, batching="vmap")
    with pytest.raises(ValueError, match="step_weights"):
        ThroughAdaptation(type="through_adaptation", recompute=2, step_weights=(0.5, 0.5))
    learner, meta = make_case()
    weighted = through_adaptation(recompute=1, step_weights=(0.5, 0.5))
    with pytest.raises(RecipeError, match="keeps no step but the last"):
        weighted(learner, meta, make_episodes(way=WAY), way=WAY, generator=torch.Generator())
    prototypes, meta = make_case(type="prototype", head={"type": "prototype"}, inner=[], steps=0)
    with pytest.raises(RecipeError, match="no inner steps"):
        through_adaptation(recompute=1)(prototypes, meta, make_episodes(way=WAY), way=WAY, generator=torch.Generator())
