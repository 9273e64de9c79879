"""Frozen features and scikit-learn's logistic regression: what a team does that has an encoder and no meta-learning.

(The strong baseline of Chen et al., 2019, arXiv:1904.04232 and Tian et al., 2020, arXiv:2003.11539.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_bench.peers.network import Moments, forward
from kshot_bench.work import Work
from kshot_models.types import Episode, Params

__all__ = ["LogisticHead"]

_MOST_ITERATIONS = 1000


class LogisticHead:
    """See Peer; there is no meta-gradient, as nothing is trained through."""

    def __init__(self, work: Work, params: Params) -> None:
        del work
        features = params["head.weight"].shape[1]
        eye = torch.eye(features, device=params["head.weight"].device)
        self._encoder = params | {"head.weight": eye, "head.bias": eye.new_zeros(features)}

    def adapt(self, episode: Episode) -> Params:
        """See Peer: the fitted classifier."""
        features, _ = self._encode(episode)
        fitted = self._fit(features, episode)
        return {"head.weight": torch.from_numpy(fitted.coef_), "head.bias": torch.from_numpy(fitted.intercept_)}

    def answer(self, episode: Episode) -> Tensor:
        """See Peer; log-probabilities stand for logits."""
        support, moments = self._encode(episode)
        fitted = self._fit(support, episode)
        with torch.no_grad():
            queries = self._normalized(forward(self._encoder, episode.query.inputs, moments=moments))
        return torch.from_numpy(fitted.predict_log_proba(queries.cpu().numpy()))

    def meta_gradient(self, episodes: Sequence[Episode]) -> Params:
        """There is none."""
        raise NotImplementedError("a frozen encoder has no meta-gradient")

    @torch.no_grad()
    def _encode(self, episode: Episode) -> tuple[Tensor, Moments]:
        moments: Moments = []
        return self._normalized(forward(self._encoder, episode.support.inputs, record=moments)), moments

    def _fit(self, features: Tensor, episode: Episode) -> LogisticRegression:
        model = LogisticRegression(max_iter=_MOST_ITERATIONS)
        return model.fit(features.cpu().numpy(), episode.support.targets.cpu().numpy())

    def _normalized(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1)
