"""The loops of `torchopt` (Ren et al., 2023, JMLR 24): its functional SGD to adapt, its MetaSGD for meta-gradients.

MetaSGD always builds the graph of the derivatives; to adapt only, the functional interface is the faster of the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchopt
from torch import Tensor
from torch.nn.functional import cross_entropy

from kshot_bench.peers.network import Moments, PeerNetwork, forward
from kshot_bench.work import Work
from kshot_models.types import Episode, Params

__all__ = ["TorchoptLoop"]


class TorchoptLoop:
    """See Peer."""

    def __init__(self, work: Work, params: Params) -> None:
        self._steps, self._rate = work.steps, work.rate
        self._params = {name: value.detach().clone() for name, value in params.items()}
        self._net = PeerNetwork(params)
        self._sgd = torchopt.sgd(work.rate)

    def adapt(self, episode: Episode) -> Params:
        """See Peer."""
        support = episode.support
        fast = {name: value.clone().requires_grad_() for name, value in self._params.items()}
        state = self._sgd.init(fast)
        for _ in range(self._steps):
            loss = cross_entropy(forward(fast, support.inputs), support.targets)
            grads = dict(zip(fast, torch.autograd.grad(loss, list(fast.values())), strict=True))
            updates, state = self._sgd.update(grads, state, params=fast, inplace=True)
            fast = torchopt.apply_updates(fast, updates, inplace=True)
        return {name: value.detach() for name, value in fast.items()}

    def answer(self, episode: Episode) -> Tensor:
        """See Peer."""
        fast = self.adapt(episode)
        moments: Moments = []
        with torch.no_grad():
            forward(fast, episode.support.inputs, record=moments)
            return forward(fast, episode.query.inputs, moments=moments)

    def meta_gradient(self, episodes: Sequence[Episode]) -> Params:
        """See Peer."""
        params = self._net.named()
        for value in params.values():
            value.grad = None
        before = torchopt.extract_state_dict(self._net, by="reference")
        for episode in episodes:
            inner = torchopt.MetaSGD(self._net, lr=self._rate)
            for _ in range(self._steps):
                inner.step(cross_entropy(self._net(episode.support.inputs), episode.support.targets))
            loss = cross_entropy(self._net(episode.query.inputs), episode.query.targets)
            (loss / len(episodes)).backward()  # type: ignore[no-untyped-call]  # torch has no type here
            torchopt.recover_state_dict(self._net, before)
            torchopt.stop_gradient(self._net)
        return {name: value.grad.clone() for name, value in params.items() if value.grad is not None}
