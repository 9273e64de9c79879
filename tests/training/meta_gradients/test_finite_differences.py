"""The gradient through the adaptation is the derivative of what adaptation computes: checked by central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_models.load import meta_to_arrays
from kshot_models.tree import meta_map
from kshot_models.types import Episode, Learner, MetaParams
from kshot_training.meta_gradients import through_adaptation
from kshot_training.outer_optimizers import leaves

WAY = 3
CASES: dict[str, dict[str, Any]] = {
    "maml": {"inner": [{"type": "sgd", "rate": 0.3}]},
    "maml transductive": {"inner": [{"type": "sgd", "rate": 0.3}], "norm": "transductive"},
    "maml stride, linear head": {
        "inner": [{"type": "sgd", "rate": 0.3}],
        "network": {"type": "conv4", "channels": (3, 4), "downsample": "stride", "readout": "mean"},
        "head": {"type": "linear", "way": WAY},
    },
    "meta-sgd": {"inner": [{"type": "meta_sgd", "rate": 0.2}], "steps": 1},
    "lslr": {"inner": [{"type": "lslr", "rate": 0.2, "steps": 2}]},
    "proto-maml": {"head": {"type": "prototype", "learned_scale": True}},
    "inner adam": {"inner": [{"type": "adam", "rate": 0.02, "carry_moments": True}]},
    "proximal": {"inner": [{"type": "proximal", "strength": 0.5}, {"type": "sgd", "rate": 0.3}]},
    "lstm": {"inner": [{"type": "lstm", "hidden": (5, 4), "scale": 0.1}]},
    "meta-learner lstm": {"inner": [{"type": "meta_learner_lstm", "hidden": 5, "input_bias": (-1.5, -1.0)}]},
    "linear rule": {"inner": [{"type": "linear_rule", "rate": 0.3}]},
    "anil": {"adapt": ("head.*",)},
    "boil": {"adapt": ("body.*",), "head": {"type": "linear", "way": WAY}},
    "group norm": {"norm": "group", "network": {"type": "conv4", "channels": (4, 4), "norm_groups": 2}},
    "per-step gains": {"inner": [{"type": "lslr", "rate": 0.2, "steps": 2}], "per_step_gains": True},
    "mamlpp": {"norm": "per_step", "per_step_gains": True, "head": {"type": "linear", "way": WAY}},
    "protonet": {"type": "prototype", "head": {"type": "prototype"}, "inner": [], "steps": 0},
    "ridge, fewer examples than features": {"type": "ridge", "head": {"type": "ridge"}, "inner": [], "steps": 0},
    "ridge, more examples than features": {
        "type": "ridge",
        "head": {"type": "ridge"},
        "network": {"type": "mlp", "hidden": (4, 5), "activation": "tanh"},
        "inner": [],
        "steps": 0,
    },
    "matching": {"type": "matching", "head": {"type": "matching"}, "inner": [], "steps": 0},
    "matching, full context": {
        "type": "matching",
        "head": {"type": "matching", "full_context": True, "reads": 2, "orders": 2},
        "inner": [],
        "steps": 0,
    },
    "snail": {
        "type": "snail",
        "head": {
            "type": "snail",
            "max_way": 5,
            "max_length": 8,
            "filters": 3,
            "attention": [[4, 3], [3, 2]],
            "orders": 2,
        },
        "inner": [],
        "steps": 0,
    },
    "maml from a ridge head": {"head": {"type": "ridge", "regularizer": 2.0}},
}


def loss_of(learner: Learner, meta: MetaParams, episodes: Episode) -> float:
    _, metrics = through_adaptation()(learner, meta, episodes, way=WAY, generator=torch.Generator())
    return float(metrics.loss)


@pytest.mark.parametrize("name", CASES)
def test_equals_central_differences(
    name: str, make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    options = dict(CASES[name])
    learner, meta = make_case(**options)
    if name == "inner adam":  # second moments are positive, and far enough from 0 for differences to be smooth
        meta = meta._replace(inner={k: v.abs() + 0.1 for k, v in meta.inner.items()})
    episodes = make_episodes(way=WAY)
    grads, _ = through_adaptation()(learner, meta, episodes, way=WAY, generator=torch.Generator())

    generator = torch.Generator().manual_seed(5)
    epsilon = 1e-6
    for leaf_name, leaf in leaves(meta).items():
        # One random direction in each tensor: every tensor is checked, so that a forgotten one cannot hide in a sum.
        direction = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
        direction /= direction.norm()

        def moved(sign: float, name: str = leaf_name, direction: torch.Tensor = direction) -> MetaParams:
            copy = meta_map(torch.clone, meta)
            meta_to_arrays(copy)[name].add_(direction, alpha=sign * epsilon)
            return copy

        numeric = (loss_of(learner, moved(1.0), episodes) - loss_of(learner, moved(-1.0), episodes)) / (2 * epsilon)
        exact = float((meta_to_arrays(grads)[leaf_name] * direction).sum())
        assert exact == pytest.approx(numeric, rel=1e-4, abs=2e-8), leaf_name


@pytest.mark.parametrize("name", ["maml", "proto-maml", "lslr"])
def test_norm_gains_adapt_in_these_cases(
    name: str, make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    learner, meta = make_case(**CASES[name])
    episode = Episode(*(type(part)(*(t[0] for t in part)) for part in make_episodes(way=WAY)))
    task = learner.adapt(meta, episode.support, way=WAY)
    assert not torch.equal(task["weights.body.norm1.gain"], meta.init["body.norm1.gain"])


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.3, 0.7)])
def test_step_weights_equal_central_differences(
    weights: tuple[float, float], make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    learner, meta = make_case()
    episodes = make_episodes(way=WAY)
    weighted = through_adaptation(step_weights=weights)

    def run(at: MetaParams) -> tuple[MetaParams, float]:
        grads, metrics = weighted(learner, at, episodes, way=WAY, generator=torch.Generator())
        return grads, float(metrics.loss)

    name, epsilon = "init/body.conv2.weight", 1e-6
    direction = torch.randn(
        meta.init["body.conv2.weight"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    losses = []
    for sign in (1.0, -1.0):
        copy = meta_map(torch.clone, meta)
        meta_to_arrays(copy)[name].add_(direction, alpha=sign * epsilon)
        losses.append(run(copy)[1])
    exact = float((run(meta)[0].init["body.conv2.weight"] * direction).sum())
    assert exact == pytest.approx((losses[0] - losses[1]) / (2 * epsilon), rel=1e-5)
