"""Nearest neighbour: the baseline that learns nothing from a support set but remembers it.

    logit of class c = the largest cosine between the query and a support image of c

of pixels, or of what the body of an artifact makes of them. A learner like any other, for evaluation: it reads the
body's weights from the artifact's meta-parameters and is not exported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.classes import mask_absent, present_classes
from kshot_models.manifest import NormMode
from kshot_models.networks.network import Network
from kshot_models.population import fresh_population, population_moments, query_moments
from kshot_models.tree import prefixed, under
from kshot_models.types import Examples, Learner, MetaParams, Params, TaskParams
from kshot_training.errors import EpisodeError

__all__ = ["NearestNeighbour", "nearest_neighbour_on"]


@dataclass(frozen=True)
class NearestNeighbour:
    """Answers with the class of the support image of the largest cosine.

    Args:
        network: Embeds images; None compares pixels.
        norm: Of the network.
    """

    network: Network | None = None
    norm: NormMode = "none"

    def init(self, generator: torch.Generator) -> MetaParams:
        """See Learner."""
        body = {} if self.network is None else self.network.init(generator)
        return MetaParams(prefixed("body.", body), {}, fresh_population(body, self.norm))

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        """See Learner: the support set's embeddings and which class each one is of."""
        given = population_moments(meta, self.norm)
        embedded, moments = self._embed(meta, support.inputs, support.weights, given)
        classes = torch.arange(way, device=support.targets.device)
        member = (support.targets[:, None] == classes) & (support.weights[:, None] > 0)  # (n, way)
        task = {"embedded": embedded, "member": member, "present": present_classes(support, way)}
        return task | prefixed("moments.", moments)

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        """See Learner: there is one point, as there are no steps."""
        yield self.adapt(meta, support, way=way)

    def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """See Learner."""
        moments = query_moments(meta, task, self.norm)
        asked, _ = self._embed(meta, inputs, weights, moments)
        cosines = asked @ task["embedded"].mT  # (queries, n)
        by_class = torch.where(task["member"].mT, cosines[:, None, :], -torch.inf).amax(-1)  # (queries, way)
        return mask_absent(by_class, task["present"])

    def _embed(
        self, meta: MetaParams, inputs: Tensor, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        if self.network is None:
            return F.normalize(inputs.flatten(1), dim=-1), {}
        features, used = self.network.apply(under("body.", meta.init), inputs, weights=weights, moments=moments)
        return F.normalize(features, dim=-1), used


def nearest_neighbour_on(learner: Learner, norm: NormMode) -> NearestNeighbour:
    """Nearest neighbour on the features of a learner's body.

    Raises:
        EpisodeError: The learner has no network that embeds an image by itself.
    """
    network = getattr(learner, "network", None)
    if not isinstance(network, Network) or norm == "per_step":
        raise EpisodeError("nearest neighbour on features needs a learner with one network and norms without steps")
    return NearestNeighbour(network, norm)
