"""However the tasks are taken, one by one, as one computation, in chunks, on threads, padded: one gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_models.batched import everywhere
from kshot_models.load import meta_to_arrays
from kshot_models.types import Episode, Examples, MetaParams
from kshot_training.meta_gradients import Metrics, through_adaptation

WAY = 3
CASES: dict[str, dict[str, Any]] = {
    # Gains adapt, two steps, max-pool and second order: what fused norms get silently wrong under vmap.
    "maml": {},
    "first order": {},
    "transductive": {"norm": "transductive"},
    "proto-maml": {"head": {"type": "prototype"}},
    "lslr": {"inner": [{"type": "lslr", "rate": 0.2, "steps": 2}]},
    "meta-sgd": {"inner": [{"type": "meta_sgd", "rate": 0.2}]},
    "lstm": {"inner": [{"type": "lstm", "hidden": (5, 4), "scale": 0.1}]},
    "meta-learner lstm": {"inner": [{"type": "meta_learner_lstm", "hidden": 5, "input_bias": (-1.5, -1.0)}]},
    "anil": {"adapt": ("head.*",)},
    "boil": {"adapt": ("body.*",)},
    "group": {"norm": "group", "network": {"type": "conv4", "channels": (4, 4), "norm_groups": 2}},
    "mamlpp": {"norm": "per_step", "per_step_gains": True},
    "protonet": {"type": "prototype", "head": {"type": "prototype"}, "inner": [], "steps": 0},
    "population": {
        "type": "prototype",
        "head": {"type": "prototype"},
        "inner": [],
        "steps": 0,
        "norm": "population",
    },
    "ridge": {"type": "ridge", "head": {"type": "ridge"}, "inner": [], "steps": 0},
    "matching": {
        "type": "matching",
        "head": {"type": "matching", "full_context": True, "reads": 2},
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
}
Result = tuple[MetaParams, Metrics]


def assert_equal(a: Result, b: Result, *, tolerance: float) -> None:
    for name, grad in meta_to_arrays(a[0]).items():
        scale = grad.abs().max().clamp_min(1e-3)  # gradients that are 0 by symmetry are rounding noise
        assert float((grad - meta_to_arrays(b[0])[name]).abs().max() / scale) <= tolerance, name
    torch.testing.assert_close(a[1], b[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weights", [None, (0.25, 0.75)])
def test_vmap_equals_loop(
    name: str, weights: tuple[float, ...] | None, make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    if CASES[name].get("steps") == 0 and weights is not None:
        pytest.skip("this learner takes no inner steps to weigh")
    learner, meta = make_case(**CASES[name])
    episodes = make_episodes(tasks=3, way=WAY)
    results = [
        through_adaptation(
            first_order=name == "first order", step_weights=weights, batching=batching, chunk_size=chunk
        )(learner, meta, episodes, way=WAY, generator=torch.Generator())
        for batching, chunk in (("loop", None), ("vmap", None), ("vmap", 2))
    ]
    assert_equal(results[0], results[1], tolerance=1e-10)
    assert_equal(results[0], results[2], tolerance=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_a_gpus_way_to_compute_equals_the_loop(
    name: str, make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    learner, meta = make_case(**CASES[name])
    episodes = make_episodes(tasks=2, way=WAY)
    loop, vmap = (through_adaptation(first_order=name == "first order", batching=b) for b in ("loop", "vmap"))
    expected = loop(learner, meta, episodes, way=WAY, generator=torch.Generator())
    with everywhere():  # on the operations that have an axis of tasks
        found = vmap(learner, meta, episodes, way=WAY, generator=torch.Generator())
    assert_equal(expected, found, tolerance=1e-10)


def test_threads_change_no_bit(make_case: Callable[..., Any], make_episodes: Callable[..., Any]) -> None:
    learner, meta = make_case()
    episodes = make_episodes(tasks=5, way=WAY)
    one, three = (
        through_adaptation(workers=workers)(learner, meta, episodes, way=WAY, generator=torch.Generator())
        for workers in (1, 3)
    )
    assert_equal(one, three, tolerance=0.0)


def pad(examples: Examples, count: int) -> Examples:
    """Garbage of weight 0 after the examples."""
    tasks = len(examples.targets)
    inputs = torch.cat([examples.inputs, torch.full((tasks, count, *examples.inputs.shape[2:]), 7.0).double()], 1)
    targets = torch.cat([examples.targets, torch.zeros(tasks, count, dtype=torch.int64)], 1)
    return Examples(inputs, targets, torch.cat([examples.weights, torch.zeros(tasks, count).double()], 1))


PADDED = ["maml", "proto-maml", "lslr", "transductive", "mamlpp", "protonet", "ridge", "matching", "snail"]


@pytest.mark.parametrize("name", PADDED)
def test_padding_changes_nothing(name: str, make_case: Callable[..., Any], make_episodes: Callable[..., Any]) -> None:
    learner, meta = make_case(**CASES[name])
    episodes = make_episodes(way=WAY)
    padded = Episode(pad(episodes.support, 3), pad(episodes.query, 2))
    plain = through_adaptation()(learner, meta, episodes, way=WAY, generator=torch.Generator())
    # Two classes more than there are examples of, as in a batch of mixed ways.
    wider = through_adaptation()(learner, meta, padded, way=WAY + 2, generator=torch.Generator())
    assert_equal(plain, wider, tolerance=1e-9)


def test_all_weight_on_the_last_step_is_the_plain_gradient(
    make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    learner, meta = make_case(steps=3)
    episodes = make_episodes(way=WAY)
    plain, weighted = (
        through_adaptation(step_weights=weights)(learner, meta, episodes, way=WAY, generator=torch.Generator())
        for weights in (None, (0.0, 0.0, 1.0))
    )
    assert_equal(plain, weighted, tolerance=1e-12)


def test_the_meta_parameters_are_left_alone(make_case: Callable[..., Any], make_episodes: Callable[..., Any]) -> None:
    learner, meta = make_case()
    before = {name: tensor.clone() for name, tensor in meta_to_arrays(meta).items()}
    through_adaptation()(learner, meta, make_episodes(way=WAY), way=WAY, generator=torch.Generator())
    for name, tensor in meta_to_arrays(meta).items():
        assert torch.equal(tensor, before[name])
        assert not tensor.requires_grad
        assert tensor.grad is None
