"""The gradient of what a stochastic optimizer is expected to cost: likelihood ratios, no derivative of any problem.

    action   a_t = mu_phi(s_t) + sigma(s_t) eps_t       the step; mu is the rule's update, eps_t normal(0, 1)
    cost     C   = mean over t of c(f(theta_t))         c the loss, or log(f + floor * f(theta_0))

    grad E[C] = E[ sum_t grad log pi(a_t | s_t) * sum_{k > t} (c_k - b_k) / T ]
    grad log pi(a_t | s_t) = eps_t / sigma * grad mu_phi(s_t)

What an action is charged with is what comes after it, above the mean b_k of the other rollouts on the same problem:
they owe nothing to this rollout's actions, so the baseline leaves the expectation as it is, and takes out how hard the
problem was. sigma, a share of the step's size, counts as given: the policy is judged by its means. Gradients of a
problem are what the rule reads, and are never differentiated; where a rule has a memory that its weights write (an
LSTM), the likelihood of an action depends on all that was read before, and so does its derivative here.

References: Williams, 1992 (REINFORCE); Kool et al., 2019 (the baseline); Li and Malik, 2016, arXiv 1606.01885, for
optimization as such a process. They trained by guided policy search, this is the plain gradient of the same objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.tree import tree_map
from kshot_models.types import Params
from kshot_training.problems.base import Problem
from kshot_training.unroll import Measure, begin, loss_gradients, rule_updates

__all__ = ["Noise", "PolicyGradient", "Rollout", "Spread", "charges", "in_rollouts", "relative_spread", "roll_out"]

Noise = Callable[[int, Params], Params]  # number of the step, its means -> eps, shaped like them
Spread = Callable[[Params], Params]  # means (tasks, *shape) -> sigma, shaped like them or broadcast to it


def relative_spread(share: float) -> Spread:
    """sigma = share * root mean square of the means, by leaf: each block of coordinates explores in its own size."""

    def spread(means: Params) -> Params:
        def one(mean: Tensor) -> Tensor:
            size = mean.reshape(len(mean), -1).square().mean(1).sqrt()  # (tasks,)
            return share * size.reshape(-1, *(1,) * (mean.ndim - 1))

        return tree_map(one, means)

    return spread


class Rollout(NamedTuple):
    """What was seen and done, step by step. Lists are of length `steps`; the losses have one more."""

    params: list[Params]  # (tasks, *shape) each, before each step
    grads: list[Params]
    scores: list[Params]  # eps / sigma, by which a change of the mean changes the log-likelihood
    losses: Tensor  # (steps + 1, tasks)


def in_rollouts(problem: Problem, rollouts: int) -> Problem:
    """Each task of a problem so many times: rollout r of task i is number r * tasks + i."""

    def losses(params: Params, step: int) -> Tensor:
        apart = tree_map(lambda p: p.reshape(rollouts, -1, *p.shape[1:]), params)
        return vmap(lambda p: problem.losses(p, step))(apart).flatten()

    return Problem(tree_map(lambda p: p.repeat(rollouts, *(1,) * (p.ndim - 1)), problem.start), losses)


def roll_out(
    rule: InnerOptimizer, phi: Params, problem: Problem, *, steps: int, spread: Spread, noise: Noise
) -> Rollout:
    """Let the stochastic optimizer work; nothing is differentiated."""
    params, state, _, memory = begin(rule, phi, problem)
    seen: list[Params] = []
    read: list[Params] = []
    scores: list[Params] = []
    path = []
    with torch.no_grad():
        for step in range(steps):
            losses, grads, memory = loss_gradients(problem, params, memory, step)
            means, state = rule_updates(rule, phi, grads, state, params, losses)
            sigma, drawn = spread(means), noise(step, means)
            seen.append(params)
            read.append(grads)
            path.append(losses)
            # Where a step is 0 nothing is tried, and nothing can be said of its likelihood.
            scores.append(tree_map(lambda e, s: torch.where(s > 0, e / s, 0.0), drawn, sigma))
            params = tree_map(lambda p, m, s, e: p + m + s * e, params, means, sigma, drawn)
        path.append(problem.losses(params, steps))
    return Rollout(seen, read, scores, torch.stack(path))


def charges(costs: Tensor, rollouts: int) -> Tensor:
    """What each action is charged with: the costs after it, less those of the other rollouts of its problem.

    Args:
        costs: (steps, rollouts * tasks), of the losses after each step.
        rollouts: per task, at least 2.

    Returns:
        (steps, rollouts * tasks).
    """
    apart = costs.reshape(len(costs), rollouts, -1)
    others = (apart.sum(1, keepdim=True) - apart) / (rollouts - 1)
    above: Tensor = (apart - others).flatten(1)
    return above.flip(0).cumsum(0).flip(0)


@dataclass(frozen=True)
class PolicyGradient:
    """An estimator of the gradient by a rule's weights.

    Args:
        rule: what is learned; its update is the policy's mean.
        steps: of a rollout, which begins where the problem does.
        rollouts: per problem, at least 2.
        spread: how widely steps are tried.
        measure: of the cost, "loss" or "log", its logarithm.
        floor: of the logarithm, as a share of the first loss: below it, a problem counts as solved.
    """

    rule: InnerOptimizer
    steps: int
    rollouts: int
    spread: Spread
    measure: Measure = "loss"
    floor: float = 0.0

    def __call__(self, phi: Params, problem: Problem, noise: Noise) -> tuple[Tensor, Params, Tensor]:
        """Roll out and estimate.

        Args:
            phi: the rule's weights.
            problem: of as many tasks as one likes.
            noise: eps of each step, shaped as `in_rollouts` orders its tasks.

        Returns:
            the mean cost, a scalar; the estimate of its gradient, shaped like `phi`; the losses at the end
            (rollouts * tasks,).
        """
        many = in_rollouts(problem, self.rollouts)
        rollout = roll_out(self.rule, phi, many, steps=self.steps, spread=self.spread, noise=noise)
        first, after = rollout.losses[0], rollout.losses[1:]
        costs = ((after + self.floor * first).log() if self.measure == "log" else after) / self.steps
        grads = self._charged_likelihood(phi, many, rollout, charges(costs, self.rollouts))
        return costs.sum(0).mean(), grads, rollout.losses[-1]

    def _charged_likelihood(self, phi: Params, problem: Problem, rollout: Rollout, charged: Tensor) -> Params:
        """The gradient of the mean over rollouts of sum_t charge_t * log pi(a_t | s_t), shaped like `phi`."""
        leaves = tree_map(lambda leaf: leaf.detach().requires_grad_(), phi)
        sums, total = tree_map(torch.zeros_like, phi), charged.new_zeros(())
        state = begin(self.rule, phi, problem).state
        for t in range(self.steps):
            read = rollout.grads[t], state, rollout.params[t], rollout.losses[t]
            means, state = rule_updates(self.rule, leaves, *read)
            for name, mean in means.items():
                weight = rollout.scores[t][name] * charged[t].reshape(-1, *(1,) * (mean.ndim - 1))
                total = total + (weight * mean).sum() / charged.shape[1]
            # Unless the rule's memory holds on to its weights, no later step needs this one's graph.
            if t == self.steps - 1 or not any(part.requires_grad for part in state):
                parts = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
                sums = dict(zip(sums, (a + b for a, b in zip(sums.values(), parts, strict=True)), strict=True))
                total = charged.new_zeros(())
        return sums
