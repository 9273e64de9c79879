"""What a problem is: something to be made small, for optimizers to be trained and compared on.

    Problem      losses of parameters and step
    Optimizee    the same with a memory that each step reads and writes, such as a language model's of its text

A family draws them by number; what is drawn is a batch of `tasks` of one kind that are taken side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from kshot_models.types import Params

__all__ = ["Family", "Optimizee", "Problem", "ProblemFamily"]


class Optimizee(Protocol):
    """`tasks` things to be optimized, as an unroll sees them."""

    @property
    def start(self) -> Params:
        """Where the parameters start, (tasks, *shape) each."""
        ...

    @property
    def memory(self) -> Params:
        """What there is to remember before the first step, (tasks, ...) each; empty where there is nothing."""
        ...

    def look(self, params: Params, memory: Params, step: int) -> tuple[Tensor, Params]:
        """The losses (tasks,) of `params` at a step, and the memory for the step after it."""
        ...


class Problem(NamedTuple):
    """`tasks` optimizees: where they start, and what is to become small. It remembers nothing."""

    start: Params  # (tasks, *shape) each
    losses: Callable[[Params, int], Tensor]  # params, step -> (tasks,); what a step's mini-batch is depends on it alone

    @property
    def memory(self) -> Params:
        """See Optimizee."""
        return {}

    def look(self, params: Params, memory: Params, step: int) -> tuple[Tensor, Params]:
        """See Optimizee."""
        return self.losses(params, step), memory


class Family(Protocol):
    """Draws optimizees; the same number is the same one."""

    def draw(self, number: int, tasks: int) -> Optimizee:
        """Number `number` with `tasks` optimizees, each with data and a start of its own."""
        ...


class ProblemFamily(Protocol):
    """Draws problems; the same number is the same problem."""

    def draw(self, number: int, tasks: int) -> Problem:
        """Problem `number` with `tasks` optimizees, each with data and a start of its own."""
        ...
