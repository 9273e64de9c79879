"""One classifier of all training classes on the body of a learner: what joint training fits where tasks are images.

    training    body ──features──> classifier.weight (classes, features), classifier.bias (classes,)
    in use      body ──features──> the learner's own head, fresh for each session

The classifier stands among the meta-parameters while training, so that optimizer, checkpoints and averages know it,
and is taken away before anything is served.

Reference: the baseline of Chen et al., "A closer look at few-shot classification", 2019, arXiv 1904.04232.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_models.heads.head import linear_logits
from kshot_models.learners import GradientLearner
from kshot_models.learners.closed_form import ClosedFormLearner
from kshot_models.networks.network import Network
from kshot_models.tree import under
from kshot_models.types import Examples, Learner, MetaParams, TaskParams
from kshot_training.errors import RecipeError

__all__ = ["AllClasses", "all_classes", "with_classifier", "without_classifier"]

_PREFIX = "classifier."


@dataclass(frozen=True)
class AllClasses:
    """A learner that learns nothing from a support set: its classes are those of the whole training data."""

    network: Network

    def init(self, generator: torch.Generator) -> MetaParams:
        """The body alone; `with_classifier` adds the classifier, whose size is that of the data."""
        return MetaParams({f"body.{name}": p for name, p in self.network.init(generator).items()}, {}, {})

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        """Nothing."""
        del meta, support, way
        return {}

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        """There are no steps."""
        yield self.adapt(meta, support, way=way)

    def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """Logits (q, classes) of inputs (q, *x), normalized by their own moments."""
        del task
        features, _ = self.network.apply(under("body.", meta.init), inputs, weights=weights, moments=None)
        return linear_logits(features, under(_PREFIX, meta.init))


def with_classifier(meta: MetaParams, learner: Learner, classes: int, generator: torch.Generator) -> MetaParams:
    """Add a fresh classifier to the meta-parameters of `learner`: weights from normal(0, 1 / features), no bias.

    Raises:
        RecipeError: The learner has no network whose features it could classify.
    """
    features = _network(learner).features
    weight = torch.randn(classes, features, generator=generator) / features**0.5
    fresh = {f"{_PREFIX}weight": weight, f"{_PREFIX}bias": torch.zeros(classes)}
    return meta._replace(init={**meta.init, **fresh})


def without_classifier(meta: MetaParams) -> MetaParams:
    """What is served of jointly trained meta-parameters; others stay as they are."""
    return meta._replace(init={name: p for name, p in meta.init.items() if not name.startswith(_PREFIX)})


def all_classes(learner: Learner, meta: MetaParams) -> AllClasses | None:
    """The classifier that stands in `meta` on the body of `learner`; None where there is none."""
    return AllClasses(_network(learner)) if f"{_PREFIX}weight" in meta.init else None


def _network(learner: Learner) -> Network:
    if not isinstance(learner, GradientLearner | ClosedFormLearner):
        raise RecipeError("meta_gradient.classes needs a learner that puts a head on features: gradient or closed form")
    return learner.network
