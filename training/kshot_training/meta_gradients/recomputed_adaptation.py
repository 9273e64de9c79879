"""Adaptation whose inner steps are computed again on the way back, instead of kept: many steps in little memory.

The graph of one inner step holds all that the network saved for two backward passes. Here at most one segment of steps
is held at a time, and the weights and state between segments; see recompute.py. The price is one more adaptation.

The gradient is the plain one bit for bit where all weights adapt. What is read inside the steps and outside of them,
such as weights that stay, gets the same terms added up in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from kshot_models.classes import present_classes
from kshot_models.inner.state import flatten
from kshot_models.inner.transformation import State
from kshot_models.learners import GradientLearner
from kshot_models.types import Examples, Learner, MetaParams, TaskParams
from kshot_training.errors import RecipeError
from kshot_training.recompute import recomputed, segment_lengths

__all__ = ["adapt_recomputed"]


def adapt_recomputed(
    learner: Learner, meta: MetaParams, support: Examples, *, way: int, length: int | None
) -> TaskParams:
    """`learner.adapt(meta, support, way=way)`, differentiable once, by reverse mode.

    Args:
        learner: a gradient learner.
        meta: the meta-parameters.
        support: the support set.
        way: number of classes.
        length: steps per segment; None takes ceil(sqrt(steps)).

    Raises:
        RecipeError: the learner takes no inner steps.
    """
    if not isinstance(learner, GradientLearner):
        raise RecipeError("meta_gradient.recompute needs a gradient learner: others take no inner steps")
    fast, fixed = learner.start(meta, support, way)
    present = present_classes(support, way)
    changing = {name: p for name, p in fast.items() if learner.adapts(name)}
    tensors, rebuild = flatten(learner.inner.bind(meta.inner).init(changing))
    phi_names, fixed_names, names = list(meta.inner), list(fixed), list(changing)
    after: list[Callable[[Sequence[Tensor]], State]] = []  # plain values in the state, such as step counts, move on

    def segment(
        shared: tuple[Tensor, ...],
        carried: tuple[Tensor, ...],
        *,
        first: int,
        count: int,
        rebuild: Callable[[Sequence[Tensor]], State],
    ) -> tuple[Tensor, ...]:
        phi = dict(zip(phi_names, shared, strict=False))
        rests = dict(zip(fixed_names, shared[len(phi_names) :], strict=True))
        weights = dict(zip(names, carried, strict=False))
        state = rebuild(carried[len(names) :])
        for taken in range(first, first + count):
            weights, state = learner.inner_step(phi, weights, state, rests, support, present, taken=taken)
        tensors, again = flatten(state)
        after.append(again)
        return (*weights.values(), *tensors)

    shared: tuple[Tensor, ...] = (*meta.inner.values(), *fixed.values())
    carried: tuple[Tensor, ...] = (*changing.values(), *tensors)
    first = 0
    for count in segment_lengths(learner.steps, length):
        run = partial(segment, first=first, count=count, rebuild=rebuild)
        shared, carried = recomputed(run, shared, carried)
        rebuild = after[-1]
        first += count
    adapted = dict(zip(names, carried, strict=False))
    return learner.task_params(meta, {**fast, **adapted}, support, way=way)
