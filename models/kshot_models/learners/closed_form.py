"""The closed-form learner: its head makes a linear classifier of the support embeddings at once, with no inner steps.

    head        the classifier
    prototype   nearest class mean: prototypical networks (Snell et al., 2017, arXiv:1703.05175)
    ridge       ridge regression on the classes: R2-D2 (Bertinetto et al., 2019, arXiv:1805.08136)

Task parameters: `head.weight`, `head.bias` (the linear classifier), `moments.NAME`, `present`. Statistics, of
norm = "population": `NAME.mean` and `NAME.variance` (1, channels) of each norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_models.classes import mask_absent, masked, present_classes
from kshot_models.heads.head import Head, linear_logits
from kshot_models.manifest import NormMode
from kshot_models.networks.network import Network
from kshot_models.population import fresh_population, population_moments, query_moments
from kshot_models.tree import prefixed, under
from kshot_models.types import Examples, MetaParams, Params, Predictor, TaskParams

__all__ = ["ClosedFormLearner"]


@dataclass(frozen=True)
class ClosedFormLearner:
    """Classifies by what its head makes of the support embeddings."""

    network: Network
    head: Head
    norm: NormMode

    def init(self, generator: torch.Generator) -> MetaParams:
        """See Learner."""
        body, head = self.network.init(generator), self.head.init(generator)
        stats = fresh_population(body, self.norm)
        return MetaParams({**prefixed("body.", body), **prefixed("head.", head)}, {}, stats)

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        """See Learner."""
        body = under("body.", meta.init)
        given = population_moments(meta, self.norm)
        features, moments = self.network.apply(body, support.inputs, weights=support.weights, moments=given)
        task = prefixed("head.", self.head.start(under("head.", meta.init), lambda: features, support, way))
        task["present"] = present_classes(support, way)
        return task | prefixed("moments.", moments) if self.norm == "support" else task

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        """See Learner: there is one point, as there are no steps."""
        yield self.adapt(meta, support, way=way)

    def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """See Learner."""
        return self.answer(meta, task, inputs, weights)[0]

    def answer(
        self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Params]:
        """What `predict` answers, and the moments by which the norms did it (none for norms that keep none)."""
        moments = query_moments(meta, task, self.norm)
        features, used = self.network.apply(under("body.", meta.init), inputs, weights=weights, moments=moments)
        return mask_absent(linear_logits(features, under("head.", task)), task["present"]), used

    def prepare(self, meta: MetaParams, task: TaskParams) -> Predictor | None:
        """See serving.Prepares."""
        moments = query_moments(meta, task, self.norm)
        if self.network.prepare is None or moments is None:
            return None
        logits = self.network.prepare(under("body.", meta.init), under("head.", task), moments)
        return masked(logits, task["present"])
