"""What a problem is: something to be made small, for optimizers to be trained and compared on.

A family draws problems by number; a drawn problem is a batch of `tasks` of one kind that are taken side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from kshot_models.types import Params

__all__ = ["Problem", "ProblemFamily"]


class Problem(NamedTuple):
    """`tasks` optimizees: where they start, and what is to become small."""

    start: Params  # (tasks, *shape) each
    losses: Callable[[Params, int], Tensor]  # params, step -> (tasks,); what a step's mini-batch is depends on it alone


class ProblemFamily(Protocol):
    """Draws problems; the same number is the same problem."""

    def draw(self, number: int, tasks: int) -> Problem:
        """Problem `number` with `tasks` optimizees, each with data and a start of its own."""
        ...
