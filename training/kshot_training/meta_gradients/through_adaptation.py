"""The gradient of the query loss through the adaptation itself: MAML and all that is trained as it is.

    theta ──adapt(support)──> phi_1 ... phi_n ──predict(query)──> loss          d loss / d (theta, inner)

What the learner adapts by decides the algorithm: SGD steps give MAML, learned rates Meta-SGD and LSLR, prototypes
ProtoNet. `first_order` makes the learner treat its inner gradients as constants (FOMAML): the path from theta to phi
stays, so learned inner rates and heads made of embeddings still get their gradients.

References: Finn et al., 2017, arXiv 1703.03400 (MAML, FOMAML); Antoniou et al., 2019, arXiv 1810.09502 (step weights).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.types import Episode, Learner, MetaParams
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.first_order import first_order_form
from kshot_training.meta_gradients.tasks import (
    Batching,
    accuracy,
    batched_mean,
    mean_in_order,
    split_tasks,
    task_map,
    trained_tensors,
    with_tensors,
)

__all__ = ["TaskLoss", "query_loss", "through_adaptation"]

TaskLoss = Callable[[MetaParams, Episode], tuple[Tensor, Tensor]]


def through_adaptation(
    *,
    first_order: bool = False,
    step_weights: Sequence[float] | None = None,
    batching: Batching = "loop",
    chunk_size: int | None = None,
    workers: int = 1,
    loss: Loss = weighted_cross_entropy,
) -> MetaGradient:
    """Make the meta-gradient mean_tasks d/d(theta, inner) sum_j w_j L_Q(phi_j).

    Args:
        first_order: Drop the derivatives of the inner gradients.
        step_weights: w_1 ... w_n for the losses after each inner step; None is the loss after the last one.
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

        def task_loss(params: MetaParams, episode: Episode) -> tuple[Tensor, Tensor]:
            return query_loss(learner, params, episode, way=way, loss=loss, step_weights=weights)

        if batching == "vmap":
            return _batched(task_loss, meta, episodes, chunk_size)
        results = run(lambda episode: _one(task_loss, meta, episode), split_tasks(episodes))
        return mean_in_order(meta, results)

    return meta_gradient


def query_loss(
    learner: Learner,
    meta: MetaParams,
    episode: Episode,
    *,
    way: int,
    loss: Loss = weighted_cross_entropy,
    step_weights: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Adapt to one episode's support set and answer its queries.

    Returns:
        The loss to differentiate and the accuracy after the last step, both scalars.
    """
    query = episode.query
    if step_weights is None:
        task = learner.adapt(meta, episode.support, way=way)
        logits = learner.predict(meta, task, query.inputs, query.weights)
        return loss(logits, query), accuracy(logits.detach(), query)
    trajectory = list(learner.trajectory(meta, episode.support, way=way))[1:]
    if len(trajectory) != len(step_weights):
        raise RecipeError(
            f"meta_gradient.step_weights has {len(step_weights)} weights, the learner takes {len(trajectory)} inner "
            "steps: give one weight for each step"
        )
    answers = [
        learner.predict(meta, task, query.inputs, query.weights)
        for task, weight in zip(trajectory, step_weights, strict=True)
        if weight != 0
    ]
    nonzero = [weight for weight in step_weights if weight != 0]
    total = torch.stack([weight * loss(logits, query) for weight, logits in zip(nonzero, answers, strict=True)]).sum()
    return total, accuracy(answers[-1].detach(), query)


def _one(task_loss: TaskLoss, meta: MetaParams, episode: Episode) -> tuple[tuple[Tensor, ...], Metrics]:
    leaves = [tensor.detach().requires_grad_() for tensor in trained_tensors(meta)]
    value, right = task_loss(with_tensors(meta, leaves), episode)
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return grads, Metrics(value.detach(), right)


def _batched(
    task_loss: TaskLoss, meta: MetaParams, episodes: Episode, chunk_size: int | None
) -> tuple[MetaParams, Metrics]:
    # The outer gradient stands inside vmap: outside, rules of some fused kernels lose second-order terms silently.
    def one(episode: Episode) -> tuple[list[Tensor], Metrics]:
        def value_of(tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
            return task_loss(with_tensors(meta, tensors), episode)

        grads, (value, right) = torch.func.grad_and_value(value_of, has_aux=True)(trained_tensors(meta))
        return grads, Metrics(value, right)

    return batched_mean(one, meta, episodes, chunk_size)
