"""The gradient of the query loss through the adaptation itself: MAML and all that is trained as it is.

    theta ──adapt(support)──> phi_1 ... phi_n ──predict(query)──> loss          d loss / d (theta, inner)

What the learner adapts by decides the algorithm: SGD steps give MAML, learned rates Meta-SGD and LSLR, prototypes
ProtoNet. `first_order` makes the learner treat its inner gradients as constants (FOMAML): the path from theta to phi
stays, so learned inner rates and heads made of embeddings still get their gradients. Running moments of norms are
counted on the way (counting.py).

References: Finn et al., 2017, arXiv 1703.03400 (MAML, FOMAML); Antoniou et al., 2019, arXiv 1810.09502 (step weights).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.learners import GradientLearner
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.serving import plain_autograd
from kshot_models.types import Episode, Learner, MetaParams, Params
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.counting import Counted, answer_counting, counting_form, displacement
from kshot_training.meta_gradients.first_order import first_order_form
from kshot_training.meta_gradients.recomputed_adaptation import adapt_recomputed
from kshot_training.meta_gradients.tasks import (
    Batching,
    TaskMap,
    accuracy,
    batched_mean,
    mean_in_order,
    split_tasks,
    task_map,
    trained_tensors,
    with_tensors,
)

__all__ = ["Judged", "TaskLoss", "gradient_over_tasks", "query_loss", "through_adaptation"]


class Judged(NamedTuple):
    """How one task's queries were answered."""

    loss: Tensor  # () to differentiate
    accuracy: Tensor  # () after the last inner step
    counted: Counted


TaskLoss = Callable[[MetaParams, Episode], Judged]


def through_adaptation(
    *,
    first_order: bool = False,
    step_weights: Sequence[float] | None = None,
    norm_momentum: float = 0.1,
    recompute: int | None = None,
    batching: Batching = "loop",
    chunk_size: int | None = None,
    workers: int = 1,
    loss: Loss = weighted_cross_entropy,
) -> MetaGradient:
    """Make the meta-gradient mean_tasks d/d(theta, inner) sum_j w_j L_Q(phi_j).

    Args:
        first_order: Drop the derivatives of the inner gradients.
        step_weights: w_1 ... w_n for the losses after each inner step; None is the loss after the last one.
        norm_momentum: The share of new moments in the running ones, of learners that count them; 0 counts none.
        recompute: Keep only what stands between segments of so many inner steps, 0 for ceil(sqrt(steps)); None keeps
            all. With "loop" and without step weights.
        batching: "loop" takes one task at a time: least memory, and fastest on CPUs. "vmap" takes them as one
            computation.
        chunk_size: With "vmap", at most so many tasks at once.
        workers: With "loop", so many tasks side by side, each on a thread.
        loss: Of logits and weighted examples, a mean over examples.
    """
    weights = None if step_weights is None else tuple(step_weights)
    run = task_map(workers)

    def meta_gradient(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        del generator  # nothing here is random
        learner = first_order_form(learner) if first_order else learner

        def task_loss(params: MetaParams, episode: Episode) -> Judged:
            return query_loss(
                learner,
                params,
                episode,
                way=way,
                loss=loss,
                step_weights=weights,
                recompute=recompute,
                counting=norm_momentum > 0,
            )

        return gradient_over_tasks(
            task_loss,
            meta,
            episodes,
            norm_momentum=norm_momentum,
            batching=batching,
            chunk_size=chunk_size,
            run=run,
        )

    return meta_gradient


def gradient_over_tasks(
    task_loss: TaskLoss,
    meta: MetaParams,
    episodes: Episode,
    *,
    norm_momentum: float,
    batching: Batching,
    chunk_size: int | None,
    run: TaskMap,
) -> tuple[MetaParams, Metrics]:
    """The mean over the tasks of a meta-batch of the gradient of a loss, and of how their queries were answered.

    Args:
        task_loss: Of meta-parameters and one episode.
        meta: Where the gradient is taken.
        episodes: The meta-batch.
        norm_momentum: The share of new moments in the running ones.
        batching: See `through_adaptation`.
        chunk_size: Likewise.
        run: With "loop", what takes the tasks.
    """
    one = partial(_alone if batching == "loop" else _in_a_batch, task_loss, meta, norm_momentum)
    if batching == "vmap":
        return batched_mean(one, meta, episodes, chunk_size)
    return mean_in_order(meta, run(one, split_tasks(episodes)))


def query_loss(
    learner: Learner,
    meta: MetaParams,
    episode: Episode,
    *,
    way: int,
    loss: Loss = weighted_cross_entropy,
    step_weights: Sequence[float] | None = None,
    recompute: int | None = None,
    counting: bool = True,
) -> Judged:
    """Adapt to one episode's support set and answer its queries, after the last inner step or after each with a weight.

    Raises:
        RecipeError: there are more or fewer weights than inner steps, or weights for steps that are not kept.
    """
    query, adapting = episode.query, counting_form(learner, counting=counting)
    if recompute is not None and step_weights is not None:
        raise RecipeError("meta_gradient.recompute keeps no step but the last: leave out the weights of the others")
    if step_weights is None:
        # Not of the trajectory: where no graph holds them, adapt frees the weights of earlier steps.
        taken = learner.steps if isinstance(learner, GradientLearner) else 0
        adapt = adapting.adapt if recompute is None else partial(adapt_recomputed, learner, length=recompute or None)
        points = [(taken, 1.0, adapt(meta, episode.support, way=way))]
    else:
        _, *path = learner.trajectory(meta, episode.support, way=way)
        if len(path) != len(step_weights):
            raise RecipeError(
                f"meta_gradient.step_weights has {len(step_weights)} weights, the learner takes {len(path)} inner "
                "steps: give one weight for each step"
            )
        numbered = enumerate(zip(step_weights, path, strict=True), start=1)
        points = [(taken, weight, task) for taken, (weight, task) in numbered if weight != 0]
    losses: list[Tensor] = []
    counted: dict[int, Params] = {}
    for taken, weight, task in points:
        logits, moments = answer_counting(learner, meta, task, query, taken=taken, counting=counting)
        losses.append(weight * loss(logits, query) if weight != 1 else loss(logits, query))
        counted |= moments
    return Judged(torch.stack(losses).sum(), accuracy(logits.detach(), query), counted)


@plain_autograd()
def _alone(
    task_loss: TaskLoss, meta: MetaParams, momentum: float, episode: Episode
) -> tuple[tuple[Tensor, ...], Metrics]:
    leaves = [tensor.detach().requires_grad_() for tensor in trained_tensors(meta)]
    value, right, counted = task_loss(with_tensors(meta, leaves), episode)
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    moved = displacement(meta.stats, counted, momentum=momentum)
    return (*grads, *moved.values()), Metrics(value.detach(), right)


def _in_a_batch(
    task_loss: TaskLoss, meta: MetaParams, momentum: float, episode: Episode
) -> tuple[tuple[Tensor, ...], Metrics]:
    # The outer gradient stands inside vmap: outside, rules of some fused kernels lose second-order terms silently.
    def value_of(tensors: list[Tensor]) -> tuple[Tensor, tuple[Tensor, Counted]]:
        value, right, counted = task_loss(with_tensors(meta, tensors), episode)
        return value, (right, counted)

    grads, (value, (right, counted)) = torch.func.grad_and_value(value_of, has_aux=True)(trained_tensors(meta))
    moved = displacement(meta.stats, counted, momentum=momentum)
    return (*grads, *moved.values()), Metrics(value, right)
