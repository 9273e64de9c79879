"""Clone and adapt with torch.autograd alone: the way learn2learn works (Arnold et al., 2020, arXiv:2008.12284).

Weights are cloned for each task, a step is `w - rate * grad`, and for the meta-gradient the graph of all steps is kept.
Written by us, without modules: the least overhead that such a loop can have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kshot_bench.peers.network import Moments, forward
from kshot_bench.work import Work
from kshot_models.types import Episode, Examples, Params

__all__ = ["AutogradLoop"]


class AutogradLoop:
    """See Peer."""

    def __init__(self, work: Work, params: Params) -> None:
        self._steps, self._rate = work.steps, work.rate
        self._params = {name: value.detach().clone().requires_grad_() for name, value in params.items()}

    def adapt(self, episode: Episode) -> Params:
        """See Peer."""
        return {name: value.detach() for name, value in self._descend(episode.support, create_graph=False).items()}

    def answer(self, episode: Episode) -> Tensor:
        """See Peer."""
        fast = self.adapt(episode)
        moments: Moments = []
        with torch.no_grad():
            forward(fast, episode.support.inputs, record=moments)
            return forward(fast, episode.query.inputs, moments=moments)

    def meta_gradient(self, episodes: Sequence[Episode]) -> Params:
        """See Peer."""
        total = {name: torch.zeros_like(value) for name, value in self._params.items()}
        for episode in episodes:
            fast = self._descend(episode.support, create_graph=True)
            loss = cross_entropy(forward(fast, episode.query.inputs), episode.query.targets)
            for sum_, grad in zip(total.values(), torch.autograd.grad(loss, list(self._params.values())), strict=True):
                sum_.add_(grad, alpha=1 / len(episodes))
        return total

    def _descend(self, support: Examples, *, create_graph: bool) -> Params:
        fast = {name: value.clone() for name, value in self._params.items()}
        for _ in range(self._steps):
            if not create_graph:
                fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
            loss = cross_entropy(forward(fast, support.inputs), support.targets)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=create_graph)
            fast = {name: value - self._rate * grad for (name, value), grad in zip(fast.items(), grads, strict=True)}
        return fast
