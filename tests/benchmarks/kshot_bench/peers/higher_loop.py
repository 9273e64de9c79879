"""The loop of `higher` (Grefenstette et al., 2019, arXiv:1910.01727): a patched module, a differentiable optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import higher
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kshot_bench.peers.network import Moments, PeerNetwork
from kshot_bench.work import Work
from kshot_models.types import Episode, Params

__all__ = ["HigherLoop"]


class HigherLoop:
    """See Peer."""

    def __init__(self, work: Work, params: Params) -> None:
        self._steps = work.steps
        self._names = list(params)
        self._net = PeerNetwork(params)
        self._optimizer = torch.optim.SGD(self._net.parameters(), lr=work.rate)

    def adapt(self, episode: Episode) -> Params:
        """See Peer."""
        with higher.innerloop_ctx(self._net, self._optimizer, track_higher_grads=False) as (net, inner):
            self._descend(net, inner, episode)
            return {n: value.detach() for n, value in zip(self._names, net.parameters(), strict=True)}

    def answer(self, episode: Episode) -> Tensor:
        """See Peer."""
        moments: Moments = []
        with higher.innerloop_ctx(self._net, self._optimizer, track_higher_grads=False) as (net, inner):
            self._descend(net, inner, episode)
            with torch.no_grad():
                net(episode.support.inputs, record=moments)
                answered: Tensor = net(episode.query.inputs, moments=moments)
                return answered

    def meta_gradient(self, episodes: Sequence[Episode]) -> Params:
        """See Peer."""
        self._optimizer.zero_grad()
        for episode in episodes:
            with higher.innerloop_ctx(self._net, self._optimizer, copy_initial_weights=False) as (net, inner):
                self._descend(net, inner, episode)
                loss = cross_entropy(net(episode.query.inputs), episode.query.targets)
                (loss / len(episodes)).backward()  # type: ignore[no-untyped-call]  # torch has no type here
        grads = (p.grad for p in self._net.parameters())
        return {n: grad.clone() for n, grad in zip(self._names, grads, strict=True) if grad is not None}

    def _descend(self, net: torch.nn.Module, inner: higher.optim.DifferentiableOptimizer, episode: Episode) -> None:
        for _ in range(self._steps):
            inner.step(cross_entropy(net(episode.support.inputs), episode.support.targets))
