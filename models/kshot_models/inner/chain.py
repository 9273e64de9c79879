"""A sum of small links: what one link makes of the gradients is what the next one gets."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective, State, carry_nothing
from kshot_models.tree import prefixed, under
from kshot_models.types import Params

__all__ = ["chain"]


def chain(*links: InnerOptimizer) -> InnerOptimizer:
    """Apply `links` in order; link i's meta-parameters are stored as `i.NAME`. One link is that link.

    The proximal term has to come first: a link before it would change the gradient that the term is added to.

    Raises:
        ValueError: a link stands alone and is not alone.
    """
    if len(links) == 1:
        return links[0]
    if any(link.stands_alone for link in links):
        raise ValueError("an inner optimizer that stands alone does not use what other links make of the gradients")

    def init(params: Params, generator: torch.Generator) -> Params:
        learned = [prefixed(f"{i}.", link.init(params, generator)) for i, link in enumerate(links)]
        return {name: leaf for part in learned for name, leaf in part.items()}

    def bind(phi: Params) -> GradientTransformation:
        bound = [link.bind(under(f"{i}.", phi)) for i, link in enumerate(links)]

        def start(params: Params) -> tuple[State, ...]:
            return tuple(link.init(params) for link in bound)

        def update(
            grads: Params,
            state: tuple[State, ...],
            params: Params,
            loss: Tensor,
            *,
            objective: Objective | None = None,
        ) -> tuple[Params, tuple[State, ...]]:
            after = []
            for link, before in zip(bound, state, strict=True):
                grads, next_state = link.update(grads, before, params, loss, objective=objective)
                after.append(next_state)
            return grads, tuple(after)

        return GradientTransformation(start, update)

    def carry(phi: Params, state: tuple[State, ...]) -> Params:
        parts = ((i, link, link_state) for i, (link, link_state) in enumerate(zip(links, state, strict=True)))
        return {k: v for i, link, s in parts for k, v in prefixed(f"{i}.", link.carry(under(f"{i}.", phi), s)).items()}

    carries = any(link.carries for link in links)
    strength = links[0].strength if links else None
    return InnerOptimizer(init, bind, carry if carries else carry_nothing, strength=strength)
