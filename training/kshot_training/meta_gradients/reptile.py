"""Reptile: move the start towards where inner mini-batch steps end.

    theta ──batch 1──> phi_1 ──batch 2──> ... phi_k            "gradient" = theta - mean_tasks phi_k

With an outer optimizer of plain SGD and rate eps the step is theta + eps (mean phi - theta), the published rule. The
support set of a training episode is the task's whole data (`train_shots` examples a class, more than the shot that is
tested); inner steps take shuffled mini-batches of it that cycle without replacement and straddle epochs.

What an inner optimizer carries from one task to the next (Adam's second moments) moves by the same rule; rates and
other learned inner parameters get zero gradients. The official code hands the moments on from task to task; here the
tasks of a meta-batch start from the same ones and their mean is taken, so that they can run side by side.

Reference: Nichol, Achiam and Schulman, 2018, arXiv 1803.02999.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kshot_models.learners import GradientLearner
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.types import Episode, Examples, Learner, MetaParams, Params
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.counting import refuse_per_step
from kshot_training.meta_gradients.first_order import first_order_form
from kshot_training.meta_gradients.tasks import accuracy, mean_metrics, split_tasks, sum_in_order, task_map, zeros_like

__all__ = ["mini_batches", "reptile"]


def reptile(
    *, batch: int, steps: int | None = None, loss: Loss = weighted_cross_entropy, workers: int = 1
) -> MetaGradient:
    """Make the pseudo-gradient theta - mean_tasks phi_k.

    Args:
        batch: Examples per inner step.
        steps: Inner steps k; None takes the learner's own number.
        loss: Of the metrics; the inner loop minimizes the learner's.
        workers: So many tasks side by side, each on a thread.
    """
    run = task_map(workers)

    def meta_gradient(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        if not isinstance(learner, GradientLearner):
            raise RecipeError("meta_gradient.type = 'reptile' needs a gradient learner: others take no inner steps")
        refuse_per_step(learner, "reptile")
        tasks = split_tasks(episodes)
        support_size = len(tasks[0].support.targets)
        count = learner.steps if steps is None else steps
        plans = [list(mini_batches(support_size, batch, count, generator)) for _ in tasks]
        plain = first_order_form(learner)
        assert isinstance(plain, GradientLearner)

        def one(work: tuple[Episode, list[Tensor]]) -> tuple[tuple[Tensor, ...], Metrics]:
            with torch.no_grad():
                return _one(plain, meta, *work, way=way, loss=loss)

        total, metrics = sum_in_order(run(one, zip(tasks, plans, strict=True)))
        values = iter(tensor.div_(len(tasks)) for tensor in total)
        init = {name: next(values) for name in meta.init}
        inner = {name: next(values) for name in meta.inner}
        return MetaParams(init, inner, zeros_like(meta.stats)), mean_metrics(metrics)

    return meta_gradient


def mini_batches(size: int, batch: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`count` batches of indices below `size`: permutations one after another, cut without regard to where one ends."""
    stream = torch.cat([torch.randperm(size, generator=generator) for _ in range(-(-batch * count // size))])
    yield from torch.split(stream[: batch * count], batch)


def _one(
    learner: GradientLearner, meta: MetaParams, episode: Episode, plan: list[Tensor], *, way: int, loss: Loss
) -> tuple[tuple[Tensor, ...], Metrics]:
    support, query = episode
    batches = (Examples(*(tensor[indices] for tensor in support)) for indices in plan)
    *_, (fast, state) = learner.descend(meta, support, batches, way=way)
    logits = learner.predict(meta, learner.task_params(meta, fast, support, way=way), query.inputs, query.weights)
    carried = learner.inner.carry(meta.inner, state)
    displacement = [_displacement(name, start, fast) for name, start in meta.init.items()]
    displacement += [start - carried[name] for name, start in meta.inner.items()]
    return tuple(displacement), Metrics(loss(logits, query), accuracy(logits, query))


def _displacement(name: str, start: Tensor, fast: Params) -> Tensor:
    if name not in fast:  # meta-learned only, or made from the support set
        return torch.zeros_like(start)
    end = fast[name]
    # A vector that stands for every class (the shared head) goes to the mean of its rows.
    return start - (end if end.shape == start.shape else end.mean(0))
