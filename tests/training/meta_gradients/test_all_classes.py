"""Joint training on images: the gradient of one classifier of all classes, by hand; what of it is served."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_models.tree import under
from kshot_models.types import Episode, MetaParams
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients import joint
from kshot_training.meta_gradients.all_classes import AllClasses, all_classes, with_classifier, without_classifier

CLASSES, WAY = 7, 3
Make = Callable[..., Any]


def doubled(meta: MetaParams) -> MetaParams:
    return meta._replace(init={name: p.double() for name, p in meta.init.items()})


def numbered(episodes: Episode) -> Episode:
    """Other targets: numbers below CLASSES."""
    drawn = torch.randint(CLASSES, episodes.query.targets.shape, generator=torch.Generator().manual_seed(5))
    return episodes._replace(query=episodes.query._replace(targets=drawn))


def gradient(learner: Any, meta: MetaParams, episodes: Episode, **options: Any) -> Any:
    return joint(**options)(learner, meta, episodes, way=CLASSES, generator=torch.Generator())


@pytest.fixture
def case(make_case: Make, make_episodes: Make) -> tuple[Any, MetaParams, Episode]:
    learner, meta = make_case(head={"type": "shared"})
    meta = doubled(with_classifier(meta, learner, CLASSES, torch.Generator().manual_seed(2)))
    return learner, meta, numbered(make_episodes(tasks=2, way=WAY))


def test_the_classifier_gets_the_gradient_of_softmax_regression(case: tuple[Any, MetaParams, Episode]) -> None:
    learner, meta, episodes = case
    grads, metrics = gradient(learner, meta, episodes)
    weight, bias, value, right = [], [], [], []
    for task in range(2):
        inputs, targets = episodes.query.inputs[task], episodes.query.targets[task]
        features, _ = learner.network.apply(under("body.", meta.init), inputs, weights=None, moments=None)
        logits = features @ meta.init["classifier.weight"].T + meta.init["classifier.bias"]
        off = (logits.softmax(1) - torch.nn.functional.one_hot(targets, CLASSES)) / len(targets)
        weight.append(off.T @ features)
        bias.append(off.sum(0))
        value.append(-logits.log_softmax(1)[torch.arange(len(targets)), targets].mean())
        right.append((logits.argmax(1) == targets).double().mean())
    torch.testing.assert_close(grads.init["classifier.weight"], torch.stack(weight).mean(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grads.init["classifier.bias"], torch.stack(bias).mean(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(metrics.loss, torch.stack(value).mean(), rtol=1e-12, atol=0)
    assert metrics.accuracy == torch.stack(right).mean()


def test_the_body_gets_the_gradient_of_the_same_loss(case: tuple[Any, MetaParams, Episode]) -> None:
    learner, meta, episodes = case
    grads, _ = gradient(learner, meta, episodes)
    generator = torch.Generator().manual_seed(3)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in meta.init.items()}

    def loss(shift: float) -> float:
        moved = {name: p + shift * direction[name] for name, p in meta.init.items()}
        return float(gradient(learner, meta._replace(init=moved), episodes)[1].loss)

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert sum(float((grads.init[n] * d).sum()) for n, d in direction.items()) == pytest.approx(slope, rel=1e-6)
    assert all(not grads.init[name].any() for name in grads.init if name.startswith("head."))
    assert all(grads.init[name].any() for name in grads.init if name.endswith("conv1.weight"))


def test_tasks_together_are_as_one_by_one(case: tuple[Any, MetaParams, Episode]) -> None:
    alone, together = (gradient(*case, batching=batching) for batching in ("loop", "vmap"))
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_what_is_served_has_no_classifier_and_starts_from_a_fresh_head(make_case: Make, make_episodes: Make) -> None:
    learner, meta = make_case(head={"type": "shared"})
    added = with_classifier(meta, learner, CLASSES, torch.Generator())
    assert added.init["classifier.weight"].shape == (CLASSES, learner.network.features)
    assert without_classifier(added).init.keys() == meta.init.keys()
    assert all_classes(learner, meta) is None
    # One row for all classes is no opinion about them: its value changes no answer, so untrained is as good as zero.
    zero = {name: torch.zeros_like(p) if name.startswith("head.") else p for name, p in meta.init.items()}
    support, query = (part._replace(**{f: t[0] for f, t in part._asdict().items()}) for part in make_episodes(way=WAY))
    answers = [
        learner.predict(m, learner.adapt(m, support, way=WAY), query.inputs).softmax(1)
        for m in (meta, meta._replace(init=zero))
    ]
    torch.testing.assert_close(*answers, rtol=1e-9, atol=1e-12)


def test_it_is_a_learner_that_learns_nothing(case: tuple[Any, MetaParams, Episode]) -> None:
    learner, meta, episodes = case
    model = all_classes(learner, meta)
    assert model == AllClasses(learner.network)
    assert model.adapt(meta, episodes.support, way=CLASSES) == {}
    assert list(model.trajectory(meta, episodes.support, way=CLASSES)) == [{}]
    body = model.init(torch.Generator().manual_seed(0)).init
    assert body.keys() == {name for name in meta.init if name.startswith("body.")}


def test_a_learner_without_features_under_a_head_is_refused(make_case: Make) -> None:
    learner, meta = make_case(type="matching", head={"type": "matching"}, inner=[], steps=0)
    with pytest.raises(RecipeError, match="a head on features"):
        with_classifier(meta, learner, CLASSES, torch.Generator())
    closed, meta = make_case(type="prototype", head={"type": "prototype"}, inner=[], steps=0)
    assert "classifier.bias" in with_classifier(meta, closed, CLASSES, torch.Generator()).init
    assert dataclasses.is_dataclass(all_classes(closed, with_classifier(meta, closed, CLASSES, torch.Generator())))
