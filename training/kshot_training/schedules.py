"""Schedules as pure functions of the outer step, so that a resumed run needs no schedule state.

factor(step) in [0, 1], times outer.learning_rate, is the learning rate of outer step `step` (counted from 0)
weights(step) are those of the losses after each inner step
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = [
    "Schedule",
    "StepWeights",
    "constant",
    "cosine",
    "linear",
    "multi_step_weights",
    "step_decay",
    "with_warmup",
]

Schedule = Callable[[int], float]
StepWeights = Callable[[int], tuple[float, ...] | None]  # None: the last inner step alone


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


def multi_step_weights(*, inner_steps: int, until: int, epoch: int = 1) -> StepWeights:
    """MAML++'s weights: equal at first, moving to the last inner step, and from outer step `until` on that one alone.

    With n inner steps, epoch number e and E = until / epoch:
        w_n = min(1/n + e (n - 1) / (n E), 1 - (n - 1) f),  the others max(1/n - e / (n E), f),  f = 0.03 / n

    Args:
        inner_steps: n.
        until: outer steps.
        epoch: outer steps in which the weights stand still.

    Reference: Antoniou, Edwards and Storkey, 2019, arXiv 1810.09502; the floor f as in their code.
    """
    floor = 0.03 / inner_steps

    def weights(step: int) -> tuple[float, ...] | None:
        if step >= until:
            return None
        moved = (step // epoch) * epoch / until  # e / E
        early = max((1 - moved) / inner_steps, floor)
        last = min((1 + moved * (inner_steps - 1)) / inner_steps, 1 - (inner_steps - 1) * floor)
        return (early,) * (inner_steps - 1) + (last,)

    return weights
