"""Sessions with their own weights, answered one after the other with torch: what there is without a batching engine."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_bench.peers.autograd_loop import AutogradLoop
from kshot_bench.peers.network import Moments, forward
from kshot_bench.tasks import draw_task, episode_of
from kshot_bench.work import Work
from kshot_models.types import Params

__all__ = ["SessionLoop"]

_ADAPTED = 32  # different sessions; the others are copies of them, as only their number matters


class SessionLoop:
    """Adapted weights in memory and one query image for each of them.

    Args:
        work: of the sessions.
        params: where they start from.
        sessions: how many there are.
        device: where.
    """

    def __init__(self, work: Work, params: Params, *, sessions: int, device: str) -> None:
        peer = AutogradLoop(work, params)
        self.sessions = sessions
        self._weights: list[Params] = []
        self._moments: list[Moments] = []
        self._queries: list[Tensor] = []
        for number in range(sessions):
            if number < _ADAPTED:
                episode = episode_of(work, draw_task(work, number), device=device)
                fast, moments = peer.adapt(episode), list[tuple[Tensor, Tensor]]()
                with torch.no_grad():
                    forward(fast, episode.support.inputs, record=moments)
                query = episode.query.inputs[:1]
            else:  # its own memory, so that no cache holds all
                fast = {name: value.clone() for name, value in self._weights[number - _ADAPTED].items()}
                moments, query = self._moments[number - _ADAPTED], self._queries[number - _ADAPTED]
            self._weights.append(fast)
            self._moments.append(moments)
            self._queries.append(query)

    @torch.no_grad()
    def answer(self, session: int) -> Tensor:
        """Probabilities (1, way) of a session's query."""
        logits = forward(self._weights[session], self._queries[session], moments=self._moments[session])
        return logits.softmax(1)
