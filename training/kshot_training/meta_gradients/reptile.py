"""Reptile: move the start towards where inner mini-batch steps end; and FOMAML in this form, along the last step alone.

    theta ──batch 1──> phi_1 ──batch 2──> ... phi_k            direction "all"    "gradient" = theta - mean_tasks phi_k
                                                               direction "last"   mean_tasks (phi_{k-1} - phi_k)

With an outer optimizer of plain SGD and rate eps the step is theta + eps (mean phi - theta), the published rule. The
support set of a training episode is the task's whole data (`train_shots` examples a class, more than the shot that is
tested); inner steps take shuffled mini-batches of it that cycle without replacement and straddle epochs. The last step
may take examples that no step before it saw: the separate tail, without which FOMAML suffers from batches that overlap.

What an inner optimizer carries from one task to the next (Adam's second moments) moves by the same rule, along all
steps; rates and other learned inner parameters get zero gradients. The official code hands the moments on from task to
task, which here is one task an outer step; the tasks of a larger meta-batch start from the same ones and their mean is
taken, so that they can run side by side.

Reference: Nichol, Achiam and Schulman, 2018, arXiv 1803.02999.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kshot_models.learners import GradientLearner
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.serving import serving
from kshot_models.types import Episode, Examples, Learner, MetaParams, Params
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients.base import Metrics, Plan, PlannedGradient
from kshot_training.meta_gradients.counting import refuse_counting
from kshot_training.meta_gradients.first_order import first_order_form
from kshot_training.meta_gradients.tasks import (
    Batching,
    TaskMap,
    accuracy,
    batched_mean,
    mean_in_order,
    split_tasks,
    task_map,
)

__all__ = ["Direction", "mini_batches", "plan_steps", "reptile"]

Direction = Literal["all", "last"]


def reptile(
    *,
    batch: int,
    steps: int | None = None,
    direction: Direction = "all",
    tail_shots: int | None = None,
    batching: Batching = "loop",
    chunk_size: int | None = None,
    loss: Loss = weighted_cross_entropy,
    workers: int = 1,
) -> PlannedGradient:
    """Make the pseudo-gradient theta - mean_tasks phi_k, or mean_tasks (phi_{k-1} - phi_k).

    Args:
        batch: Examples per inner step.
        steps: Inner steps k; None takes the learner's own number.
        direction: Along all inner steps, or along the last one: FOMAML, times what the inner optimizer makes of it.
        tail_shots: Examples of each class that the last step takes and no other; None: a mini-batch like the others.
        batching: "loop" takes one task at a time, "vmap" takes them as one computation.
        chunk_size: With "vmap", at most so many tasks at once.
        loss: Of the metrics; the inner loop minimizes the learner's.
        workers: With "loop", so many tasks side by side, each on a thread.
    """
    return _Reptile(batch, steps, direction, tail_shots, batching, chunk_size, loss, task_map(workers))


@dataclass(frozen=True)
class _Reptile:
    """See `reptile`."""

    batch: int
    steps: int | None
    direction: Direction
    tail_shots: int | None
    batching: Batching
    chunk_size: int | None
    loss: Loss
    run: TaskMap

    def __call__(
        self, learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        device = episodes.support.targets.device
        plan = self.plan(learner, episodes.support, generator)
        return self.follow(learner, meta, episodes, tuple(step.to(device) for step in plan), way=way)

    def plan(self, learner: Learner, support: Examples, generator: torch.Generator) -> Plan:
        """See PlannedGradient."""
        count = _checked(learner).steps if self.steps is None else self.steps
        tasks = [Examples(*parts) for parts in zip(*(part.unbind() for part in support), strict=True)]
        plans = [plan_steps(task, self.batch, count, generator, tail_shots=self.tail_shots) for task in tasks]
        return tuple(torch.stack(step) for step in zip(*plans, strict=True))

    def follow(
        self, learner: Learner, meta: MetaParams, episodes: Episode, plan: Plan, *, way: int
    ) -> tuple[MetaParams, Metrics]:
        """See PlannedGradient."""
        plain = first_order_form(_checked(learner))
        assert isinstance(plain, GradientLearner)

        def one(work: tuple[Episode, Plan]) -> tuple[tuple[Tensor, ...], Metrics]:
            # Nothing is differentiated but inner losses; vmap is a transform, to which serving is no promise.
            with torch.no_grad() if self.batching == "vmap" else serving():
                return _one(plain, meta, *work, way=way, direction=self.direction, loss=self.loss)

        if self.batching == "vmap":
            return batched_mean(one, meta, (episodes, plan), self.chunk_size)
        plans = zip(*(step.unbind() for step in plan), strict=True)
        return mean_in_order(meta, self.run(one, zip(split_tasks(episodes), plans, strict=True)))


def _checked(learner: Learner) -> GradientLearner:
    if not isinstance(learner, GradientLearner):
        raise RecipeError("meta_gradient.type = 'reptile' needs a gradient learner: others take no inner steps")
    refuse_counting(learner, "reptile")
    return learner


def plan_steps(
    support: Examples, batch: int, count: int, generator: torch.Generator, *, tail_shots: int | None = None
) -> Plan:
    """Which examples each of `count` inner steps takes: for each, their indices in the support set, on the CPU.

    Args:
        support: of one task.
        batch: examples per step.
        count: steps.
        generator: shuffles.
        tail_shots: examples of each class that only the last step takes, all of them; None takes none apart.

    Raises:
        RecipeError: the tail leaves nothing for the steps before it.
    """
    if tail_shots is None:
        return tuple(mini_batches(len(support.targets), batch, count, generator))
    targets, weights = support.targets.cpu(), support.weights.cpu()
    shuffled = torch.randperm(len(targets), generator=generator)
    kept = shuffled[weights[shuffled] > 0]
    classes = targets[kept]
    # How many of its class stand before an example: the first `tail_shots` of each class are the tail.
    earlier = (classes[:, None] == classes[None, :]).tril(-1).sum(1)
    tail, rest = kept[earlier < tail_shots], kept[earlier >= tail_shots]
    if not len(rest):
        raise RecipeError(f"meta_gradient.tail_shots = {tail_shots} leaves no examples: make episodes.shot larger")
    return (*(rest[i] for i in mini_batches(len(rest), batch, count - 1, generator)), tail)


def mini_batches(size: int, batch: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`count` batches of indices below `size`: permutations one after another, cut without regard to where one ends."""
    if count == 0:
        return
    stream = torch.cat([torch.randperm(size, generator=generator) for _ in range(-(-batch * count // size))])
    yield from torch.split(stream[: batch * count], batch)


def _one(
    learner: GradientLearner,
    meta: MetaParams,
    episode: Episode,
    plan: Plan,
    *,
    way: int,
    direction: Direction,
    loss: Loss,
) -> tuple[tuple[Tensor, ...], Metrics]:
    support, query = episode
    batches = (Examples(*(tensor[indices] for tensor in support)) for indices in plan)
    path = learner.descend(meta, support, batches, way=way)
    (before, _), (fast, state) = deque(path, maxlen=2)
    logits = learner.predict(meta, learner.task_params(meta, fast, support, way=way), query.inputs, query.weights)
    carried = learner.inner.carry(meta.inner, state)
    since = before if direction == "last" else meta.init
    displacement = [_displacement(name, start, since, fast) for name, start in meta.init.items()]
    displacement += [start - carried[name] for name, start in meta.inner.items()]
    return tuple(displacement), Metrics(loss(logits, query), accuracy(logits, query))


def _displacement(name: str, start: Tensor, since: Params, fast: Params) -> Tensor:
    if name not in fast:  # meta-learned only, or made from the support set
        return torch.zeros_like(start)
    return _as_started(since[name], start) - _as_started(fast[name], start)


def _as_started(weights: Tensor, start: Tensor) -> Tensor:
    # A vector that stands for every class (the shared head) goes to the mean of its rows.
    return weights if weights.shape == start.shape else weights.mean(0)
