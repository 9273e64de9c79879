"""What the outer loop and evaluation draw episodes from."""

from __future__ import annotations

from typing import Protocol

from kshot_models.types import Episode

__all__ = ["Sampler"]


class Sampler(Protocol):
    """Episodes without state: the same step gives the same episodes, in any process and on any device."""

    @property
    def steady(self) -> bool:
        """Whether the episodes of all steps have one shape; then those of several steps can be drawn as one batch."""
        ...

    def sample(self, step: int, tasks: int) -> Episode:
        """The meta-batch of a step.

        Args:
            step: from 0.
            tasks: how many episodes; those of step s are the numbers s * tasks .. (s + 1) * tasks - 1.

        Returns:
            An episode whose tensors all have a leading `tasks` axis.
        """
        ...

    def way_at(self, step: int) -> int:
        """The way of the episodes of a step, padding counted: the size of the head that they need."""
        ...
