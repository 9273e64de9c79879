"""The implicit meta-gradient of iMAML: from where adaptation ends, not from how it went.

    phi* = argmin L_S(phi) + strength / 2 |phi - s(theta)|^2          found by the learner's inner loop, held constant
    (I + H / strength) u = grad_phi L_Q(phi*),   H = Hessian of L_S at phi*      conjugate gradients
    d L_Q / d theta = u . ds/dtheta  +  what L_Q, and the gradient of L_S, owe to weights that do not adapt

What is differentiated, precisely:
    - s(theta), where the fast weights start: the meta-learned weights themselves, one learned vector for all classes
      (their gradients add up: the head `shared`), or prototypes of the support embedding (the head `prototype`).
    - L_Q is a function of phi* alone where the moments of the norm come from the support set: through them too.
    - Weights that do not adapt (`adapt` patterns) act directly and by moving phi*: - u/strength . d(grad L_S)/dtheta.
    - What the inner optimizer learned (rates) does not move the minimum: its gradient is 0.

The equation holds at the minimum. Reported are how far the inner loop stayed from it (`inner_grad_norm`), how well the
system was solved (`cg_residual`, relative), and the share of tasks in which negative curvature ended the solution early
(`cg_truncated`). Memory does not depend on the number of inner steps.

Reference: Rajeswaran, Finn, Kakade and Levine, 2019, arXiv 1909.04630.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import repeat

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vjp

from kshot_models.classes import present_classes
from kshot_models.inner.conjugate_gradient import conjugate_gradient
from kshot_models.inner.proximal import pulled_back
from kshot_models.learners import GradientLearner
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.tree import tree_dot, tree_map
from kshot_models.types import Episode, Learner, MetaParams, Params
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.counting import refuse_counting
from kshot_training.meta_gradients.first_order import first_order_form
from kshot_training.meta_gradients.tasks import (
    Batching,
    accuracy,
    batched_mean,
    mean_in_order,
    split_tasks,
    task_map,
    zeros_like,
)

__all__ = ["imaml"]


def imaml(
    *,
    strength: float,
    cg_steps: int = 5,
    damping: float = 0.0,
    batching: Batching = "loop",
    chunk_size: int | None = None,
    workers: int = 1,
    loss: Loss = weighted_cross_entropy,
) -> MetaGradient:
    """Make the meta-gradient mean_tasks (I + H / strength)^-1 grad L_Q(phi*).

    Args:
        strength: That of the learner's inner problem: of its link `proximal` or `newton_cg`.
        cg_steps: Hessian-vector products per task.
        damping: Solves (1 + damping) I + H / strength instead; the residual is of that system.
        batching: "loop" takes one task at a time, "vmap" takes them as one computation.
        chunk_size: With "vmap", at most so many tasks at once.
        workers: With "loop", so many tasks side by side, each on a thread.
        loss: Of the queries; the inner loop minimizes the learner's.
    """
    run = task_map(workers)

    def meta_gradient(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        del generator  # nothing here is random
        if not isinstance(learner, GradientLearner):
            raise RecipeError("meta_gradient.type = 'imaml' needs a gradient learner: others solve no inner problem")
        refuse_counting(learner, "imaml")

        def one(episode: Episode) -> tuple[tuple[Tensor, ...], Metrics]:
            with torch.no_grad():  # the derivatives are taken by torch.func, which keeps nothing of the inner loop
                task = _Task(learner, meta, episode, way, loss)
                return task.gradient(strength=strength, cg_steps=cg_steps, damping=damping)

        if batching == "vmap":
            return batched_mean(one, meta, episodes, chunk_size)
        return mean_in_order(meta, run(one, split_tasks(episodes)))

    return meta_gradient


class _Task:
    """One task at its adapted weights."""

    def __init__(self, learner: GradientLearner, meta: MetaParams, episode: Episode, way: int, loss: Loss) -> None:
        self.learner, self.meta, self.episode, self.way, self.loss = learner, meta, episode, way, loss
        self.present = present_classes(episode.support, way)
        constant = first_order_form(learner)  # nobody differentiates the way there
        assert isinstance(constant, GradientLearner)
        # A deque of one: the weights of earlier steps are freed as it goes.
        path = constant.descend(meta, episode.support, repeat(episode.support, learner.steps), way=way)
        [(fast, _)] = deque(path, maxlen=1)
        self.adapted = self._changing(fast)

    def gradient(self, *, strength: float, cg_steps: int, damping: float) -> tuple[tuple[Tensor, ...], Metrics]:
        """The meta-gradient, ordered as `trained_tensors`, and what was seen."""
        start, _ = self._start(self.meta)
        outer, (value, right) = grad_and_value(self._query_loss, has_aux=True)(self.adapted, self.meta.init)
        slope: Params
        slope, pull = vjp(lambda phi: self._support_grad(phi, self.meta.init), self.adapted)  # type: ignore[misc]  # annotated with the has_aux form too

        def system(v: Params) -> Params:
            (product,) = pull(v)
            return tree_map(lambda u, h: (1 + damping) * u + h / strength, v, product)

        solution = conjugate_gradient(system, outer, steps=cg_steps)
        init = grad(self._explicit(solution.x, strength))(self.meta.init)
        inner_grad = pulled_back(slope, self.adapted, start, strength)
        told = {
            "cg_residual": solution.residual,
            "cg_truncated": solution.truncated,
            "inner_grad_norm": tree_dot(inner_grad, inner_grad).sqrt(),
        }
        return (*init.values(), *zeros_like(self.meta.inner).values()), Metrics(value, right, told)

    def _explicit(self, solution: Params, strength: float) -> Callable[[Params], Tensor]:
        """The function of theta, at constant phi* and u, whose gradient is the meta-gradient."""

        def function(init: Params) -> Tensor:
            start, rests = self._start(self.meta._replace(init=init))
            value = tree_dot(solution, start)
            if rests:  # else neither term depends on theta, and the passes are saved
                support_grad = self._support_grad(self.adapted, init)
                value = value + self._query_loss(self.adapted, init)[0] - tree_dot(solution, support_grad) / strength
            return value

        return function

    def _query_loss(self, changing: Params, init: Params) -> tuple[Tensor, Tensor]:
        support, query = self.episode
        meta = self.meta._replace(init=init)
        fast, _ = self.learner.start(meta, support, self.way)
        task = self.learner.task_params(meta, {**fast, **changing}, support, way=self.way)
        logits = self.learner.predict(meta, task, query.inputs, query.weights)
        return self.loss(logits, query), accuracy(logits, query)

    def _support_grad(self, changing: Params, init: Params) -> Params:
        _, rests = self.learner.start(self.meta._replace(init=init), self.episode.support, self.way)
        slope: Params = grad(self.learner.support_loss)(changing, rests, self.episode.support, self.present)
        return slope

    def _start(self, meta: MetaParams) -> tuple[Params, Params]:
        """Where the adapting weights start, and the weights that rest."""
        fast, rests = self.learner.start(meta, self.episode.support, self.way)
        return self._changing(fast), rests

    def _changing(self, fast: Params) -> Params:
        return {name: weight for name, weight in fast.items() if self.learner.adapts(name)}
