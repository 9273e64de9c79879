"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no schedule state.

factor(step) in [0, 1], times outer.learning_rate, is the learning rate of outer step `step` (counted from 0)
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "linear", "step_decay", "with_warmup"]

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """The same rate throughout."""
    return lambda _step: 1.0


def cosine(*, steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` over `steps`: final + (1 - final) (1 + cos(pi t / steps)) / 2.

    Reference: Loshchilov and Hutter, 2017, arXiv 1608.03983.
    """
    return lambda step: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def linear(*, steps: int, final: float = 0.0) -> Schedule:
    """A straight line from 1 to `final` over `steps`; Reptile's outer step size with final = 0."""
    return lambda step: 1 + (final - 1) * min(step / steps, 1.0)


def step_decay(*, every: int, factor: float) -> Schedule:
    """Multiply by `factor` after each `every` steps."""
    return lambda step: factor ** (step // every)


def with_warmup(schedule: Schedule, *, steps: int) -> Schedule:
    """Rise linearly over the first `steps`, on top of `schedule`."""
    if steps == 0:
        return schedule
    return lambda step: schedule(step) * min(1.0, (step + 1) / steps)
