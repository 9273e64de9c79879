"""The context learner: embeds the support set, reads it as a whole, and keeps what it read; there are no inner steps.

    adapt    support ──network──> embeddings ──minus their mean, length 1──> read ──> context
    predict  query   ──network──> embedding  ──minus that mean, length 1──> answer ──> logits

The mean of the support embeddings is taken away because embeddings after a ReLU lie far from the origin and close
together: in the shipped Omniglot body they are 64 long and 3 apart, so that their bare cosines all are 0.998. It is
the support set's alone, so a query's answer depends on no other query.

Matching Networks (context/matching.py) and SNAIL (context/snail.py) are this learner. Task parameters: `context.NAME`,
`centre`, `moments.NAME`, `present`. Statistics, of norm = "population": `NAME.mean` and `NAME.variance` (1, channels)
of each norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_models.classes import mask_absent, present_classes
from kshot_models.context.context import Context
from kshot_models.context.vectors import unit
from kshot_models.manifest import NormMode
from kshot_models.networks.network import Network
from kshot_models.population import fresh_population, population_moments, query_moments
from kshot_models.tree import prefixed, under
from kshot_models.types import Examples, MetaParams, Params, TaskParams

__all__ = ["ContextLearner"]


@dataclass(frozen=True)
class ContextLearner:
    """Classifies queries in the context of the support set."""

    network: Network
    context: Context
    norm: NormMode

    def init(self, generator: torch.Generator) -> MetaParams:
        """See Learner."""
        body, head = self.network.init(generator), self.context.init(generator)
        stats = fresh_population(body, self.norm)
        return MetaParams({**prefixed("body.", body), **prefixed("head.", head)}, {}, stats)

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        """See Learner."""
        body = under("body.", meta.init)
        given = population_moments(meta, self.norm)
        features, moments = self.network.apply(body, support.inputs, weights=support.weights, moments=given)
        centre = support.weights @ features / support.weights.sum().clamp_min(1)
        read = self.context.read(under("head.", meta.init), unit(features - centre), support, way)
        task = {**prefixed("context.", read), "centre": centre, "present": present_classes(support, way)}
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
        logits = self.context.answer(
            under("head.", meta.init), under("context.", task), unit(features - task["centre"])
        )
        return mask_absent(logits, task["present"]), used
