"""What a peer does: adapt and answer, or a meta-gradient. One task at a time, as all of them work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

from kshot_bench.work import Work
from kshot_models.types import Episode, Params

__all__ = ["Build", "Peer"]


class Peer(Protocol):
    """Another implementation of the work item."""

    def adapt(self, episode: Episode) -> Params:
        """The fast weights of an episode's support set, by our names, without a graph."""
        ...

    def answer(self, episode: Episode) -> Tensor:
        """Adapt to the support set, then the logits (queries, way) with the moments of the support set."""
        ...

    def meta_gradient(self, episodes: Sequence[Episode]) -> Params:
        """The second-order gradient of the mean query loss, by our names; queries give their own moments."""
        ...


Build: TypeAlias = Callable[[Work, Params], Peer]  # from the work item and the weights before adaptation
