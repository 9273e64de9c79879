"""Each image in turn: the mean over the episodes that they make, by torch's own operations, and who refuses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_models.load import meta_to_arrays
from kshot_models.tree import meta_map, tree_map
from kshot_models.types import Episode, Examples, MetaParams
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients import in_turn, through_adaptation

Make = Callable[..., Any]
WAY = 3
KINDS: dict[str, dict[str, Any]] = {
    "prototype": {"type": "prototype", "head": {"type": "prototype", "learned_scale": True}},
    "ridge": {"type": "ridge", "head": {"type": "ridge"}},
    "matching": {"type": "matching", "head": {"type": "matching"}},
}


def run(gradient: Any, learner: Any, meta: MetaParams, episodes: Episode) -> Any:
    return gradient(learner, meta, episodes, way=WAY, generator=torch.Generator())


def turned(episodes: Episode, shot: int, turn: int) -> Episode:
    """The episodes in which the images of each class have moved on by `turn` places."""
    support, query = (part.inputs.unflatten(1, (WAY, -1)) for part in episodes)
    images = torch.cat([support, query], 2).roll(-turn, 2)
    parts = images[:, :, :shot].flatten(1, 2), images[:, :, shot:].flatten(1, 2)
    return Episode(*(part._replace(inputs=inputs) for part, inputs in zip(episodes, parts, strict=True)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.parametrize("shot", [1, 2])
def test_is_the_mean_over_the_episodes_that_images_make_in_turn(
    kind: str, batching: Any, shot: int, make_case: Make, make_episodes: Make
) -> None:
    network = {"type": "conv4", "channels": (4, 4), "norm_groups": 2}
    learner, meta = make_case(**KINDS[kind], inner=[], steps=0, norm="group", network=network)
    episodes = make_episodes(way=WAY, shot=shot, queries=3)
    grads, told = run(in_turn(batching=batching), learner, meta, episodes)
    each = [run(through_adaptation(), learner, meta, turned(episodes, shot, turn)) for turn in range(shot + 3)]
    torch.testing.assert_close(told.loss, torch.stack([seen.loss for _, seen in each]).mean())
    torch.testing.assert_close(told.accuracy, torch.stack([seen.accuracy for _, seen in each]).mean())
    for name, grad in meta_to_arrays(grads).items():
        expected = torch.stack([meta_to_arrays(one)[name] for one, _ in each]).mean(0)
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


def by_torch(meta: MetaParams, episode: Episode) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of prototypes by the moments of one batch, and these of the first layer."""
    support, query = (part.inputs.unflatten(0, (WAY, -1)) for part in episode)
    images = torch.cat([support, query], 1)
    features, body = images.flatten(0, 1), {name.removeprefix("body."): p for name, p in meta.init.items()}
    seen: dict[str, Tensor] = {}
    for i in (1, 2):
        features = F.conv2d(features, body[f"conv{i}.weight"], padding=1)
        if i == 1:
            seen = {"mean": features.mean((0, 2, 3)), "variance": features.var((0, 2, 3), correction=0)}
        features = F.batch_norm(features, None, None, body[f"norm{i}.gain"], body[f"norm{i}.bias"], training=True)
        features = F.max_pool2d(F.relu(features), 2)
    by_class = features.flatten(1).unflatten(0, (WAY, -1))
    n = by_class.shape[1]
    losses = []
    for turn in range(n):
        others = torch.cat([by_class[:, :turn], by_class[:, turn + 1 :]], 1)
        distances = torch.cdist(others.flatten(0, 1), by_class[:, turn]).square()
        losses.append(F.cross_entropy(-distances, torch.arange(WAY).repeat_interleave(n - 1)))
    return torch.stack(losses).mean(), seen


def test_population_moments_are_those_of_all_images_at_once(make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(type="prototype", head={"type": "prototype"}, inner=[], steps=0, norm="population")
    episodes = make_episodes(tasks=2, way=WAY, shot=1, queries=3)
    grads, told = run(in_turn(norm_momentum=0.25), learner, meta, episodes)
    leaves = meta._replace(init=tree_map(lambda p: p.clone().requires_grad_(), meta.init))
    one_by_one = [Episode(*(Examples(*(t[i] for t in part)) for part in episodes)) for i in range(2)]
    values, seen = zip(*(by_torch(leaves, episode) for episode in one_by_one), strict=True)
    loss = torch.stack(values).mean()
    torch.testing.assert_close(told.loss, loss.detach())
    for name, expected in zip(leaves.init, torch.autograd.grad(loss, list(leaves.init.values())), strict=True):
        torch.testing.assert_close(grads.init[name], expected, rtol=1e-8, atol=1e-10)
    for what in ("mean", "variance"):
        counted = torch.stack([each[what] for each in seen]).mean(0).detach()
        moved = 0.25 * (meta.stats[f"norm1.{what}"][0] - counted)
        torch.testing.assert_close(grads.stats[f"norm1.{what}"][0], moved, rtol=1e-9, atol=1e-12)


def test_in_single_precision_kernels_give_the_same(make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(type="prototype", head={"type": "prototype"}, inner=[], steps=0, norm="population")
    episodes = make_episodes(way=WAY, shot=1, queries=3)
    expected, _ = run(in_turn(), learner, meta, episodes)
    in_single = Episode(*(part._replace(inputs=part.inputs.float(), weights=part.weights.float()) for part in episodes))
    found, _ = run(in_turn(), learner, meta_map(Tensor.float, meta), in_single)
    for name, grad in meta_to_arrays(expected).items():
        torch.testing.assert_close(meta_to_arrays(found)[name].double(), grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "what",
    [
        {},  # a gradient learner
        {"type": "prototype", "head": {"type": "prototype"}, "inner": [], "steps": 0, "norm": "support"},
    ],
)
def test_who_embeds_by_the_support_set_is_refused(what: dict[str, Any], make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(**what)
    with pytest.raises(RecipeError, match="embeds all images of an episode at once: it needs a learner without"):
        run(in_turn(), learner, meta, make_episodes(way=WAY))


def test_the_learner_is_not_changed(make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(type="prototype", head={"type": "prototype"}, inner=[], steps=0, norm="population")
    before = dataclasses.replace(learner), meta_map(torch.clone, meta)
    run(in_turn(), learner, meta, make_episodes(way=WAY))
    assert learner == before[0]
    for name, tensor in meta_to_arrays(meta).items():
        assert torch.equal(tensor, meta_to_arrays(before[1])[name])
