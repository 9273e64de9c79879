"""What an inner optimizer is: pure functions, so that it can be differentiated, batched and stored.

InnerOptimizer          init(params, generator) -> phi what it learns, shaped after the fast weights
                        bind(phi)    -> GradientTransformation
GradientTransformation  init(params) -> state
                        update(grads, state, params, loss) -> updates, state      params + updates is one inner step

A rule that needs more than the gradient, such as a line search, is also given the `objective`: the support loss as a
function. The others ignore it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from kshot_models.types import Params

__all__ = [
    "GradientTransformation",
    "InnerOptimizer",
    "Objective",
    "Rates",
    "State",
    "Update",
    "carry_nothing",
    "stateless",
]

State: TypeAlias = Any
Objective: TypeAlias = Callable[[Params], Tensor]


class Update(Protocol):
    """One step of a gradient transformation."""

    def __call__(
        self, grads: Params, state: State, params: Params, loss: Tensor, *, objective: Objective | None = None
    ) -> tuple[Params, State]:
        """Turn gradients into updates.

        Args:
            grads: of the mean support loss, shaped like `params`; or what the link before made of them.
            state: from `init` or the step before.
            params: the fast weights at which `grads` were taken.
            loss: the mean support loss there, a scalar.
            objective: fast weights -> the mean support loss of this step's examples; a pure function, for rules that
                evaluate or differentiate it themselves. Learners give it; it is None where only gradients are known.

        Returns:
            updates to be added to `params`, and the next state.
        """
        ...


class GradientTransformation(NamedTuple):
    """A rule from gradients to updates, with its state made explicit."""

    init: Callable[[Params], State]
    update: Update


def carry_nothing(phi: Params, state: State) -> Params:
    """What is learned stays as it is, whatever an adaptation came to."""
    del state
    return phi


class Rates(NamedTuple):
    """Of one weight, where steps are nothing but rates: it goes down by by_step[step] * by_weight * gradient."""

    by_step: Tensor  # (steps,)
    by_weight: Tensor | None = None  # shaped like the weight, or broadcast to it; None for 1


class InnerOptimizer(NamedTuple):
    """A family of gradient transformations, indexed by what meta-training learns of it.

    `init` is given a template of the fast weights; where the way is free its head has one row, so whatever is learned
    for a head weight is shared by all classes. What it draws, it draws from the generator: learned rules have weights
    of their own, which must not start alike. `strength` is lambda where the steps go down
    L_S(phi) + lambda / 2 |phi - phi_0|^2, whose minimum the implicit gradient needs; None where there is no such term.
    """

    init: Callable[[Params, torch.Generator], Params]
    bind: Callable[[Params], GradientTransformation]
    carry: Callable[[Params, State], Params] = carry_nothing
    strength: float | None = None
    stands_alone: bool = False  # it does not look at what a link before it made of the gradients
    rates: Callable[[Params, str, int], Rates] | None = (
        None  # phi, name, steps; where each step is a rate by the gradient
    )

    @property
    def carries(self) -> bool:
        """Whether `carry` hands something on from one adaptation to the next."""
        return self.carry is not carry_nothing


def stateless(update: Callable[[Params], Params]) -> GradientTransformation:
    """The transformation that looks at the gradients only."""
    return GradientTransformation(
        lambda params: (), lambda grads, state, params, loss, objective=None: (update(grads), ())
    )
