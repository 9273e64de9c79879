"""What a meta-gradient is: a function from meta-parameters and episodes to a direction for the outer optimizer."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from kshot_models.types import Episode, Examples, Learner, MetaParams, Params

__all__ = ["MetaGradient", "Metrics", "Plan", "PlannedGradient"]

Plan: TypeAlias = tuple[Tensor, ...]


class Metrics(NamedTuple):
    """What one meta-gradient saw, as means over its tasks; scalars without graph."""

    loss: Tensor  # () query loss
    accuracy: Tensor  # () share of right answers on the queries, NaN for a regression
    diagnostics: Params = {}  # noqa: RUF012 - a NamedTuple's default; () each: what only this meta-gradient can tell


class MetaGradient(Protocol):
    """Estimates the gradient of the expected query loss with respect to the meta-parameters.

    The outer loop knows nothing else of an algorithm: MAML, Reptile or an implicit gradient are values of this type.
    """

    def __call__(
        self, learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Return the gradient, shaped like `meta`, and the metrics.

        In the place of `stats`, which have no gradient, stands what is to be subtracted from them as it is: zeros from
        most, see counting.py.

        Args:
            learner: What is meta-trained.
            meta: Its meta-parameters; not changed, need not require gradients.
            episodes: A meta-batch: every tensor of an `Episode` with a leading `tasks` axis.
            way: Classes per episode, the same for the whole meta-batch.
            generator: The randomness of this outer step, seeded by the loop from (seed, step).
        """
        ...


@runtime_checkable
class PlannedGradient(MetaGradient, Protocol):
    """A meta-gradient that draws random numbers, and can draw them ahead of time: where no host is asked in between."""

    def plan(self, learner: Learner, support: Examples, generator: torch.Generator) -> Plan:
        """What the call would draw.

        Args:
            learner: What is meta-trained.
            support: Of a meta-batch, with a leading tasks axis.
            generator: As for the call.

        Returns:
            Tensors with a leading tasks axis, on the CPU.
        """
        ...

    def follow(
        self, learner: Learner, meta: MetaParams, episodes: Episode, plan: Plan, *, way: int
    ) -> tuple[MetaParams, Metrics]:
        """What the call returns where it draws `plan`."""
        ...
