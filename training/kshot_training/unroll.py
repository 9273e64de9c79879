"""An update rule at work on a problem, and how its weights bear on the losses that it leaves behind.

    theta_{t+1} = theta_t + update(grad f_t(theta_t), state_t)          meta-loss = sum_t w_t f_t(theta_t)

Gradients count as constants, in the rule's input and in nothing else (Andrychowicz et al., 2016, arXiv 1606.04474):
the derivative of a loss by theta_t is the very gradient that the rule is fed, so each step needs one forward and one
backward pass of the optimizee, and no graph of it is kept. f_t is judged before the rule has seen its mini-batch. What
an optimizee remembers from step to step counts as a constant too.

The tasks of a problem run side by side under vmap, each with a state of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import vmap

from kshot_models.inner.state import flatten
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.tree import tree_add, tree_map
from kshot_models.types import Params
from kshot_training.problems.base import Optimizee
from kshot_training.recompute import recomputed, segment_lengths

__all__ = ["Measure", "Unroll", "Walk", "begin", "loss_gradients", "optimize", "rule_updates"]

Measure: TypeAlias = Literal["loss", "log"]


class Walk(NamedTuple):
    """The tasks of a problem on their way."""

    params: Params  # (tasks, *shape) each
    state: tuple[Tensor, ...]  # (tasks, ...) the rule's, as `flatten` orders it
    taken: int  # steps so far
    memory: Params  # (tasks, ...) the optimizee's own


def begin(rule: InnerOptimizer, phi: Params, problem: Optimizee) -> Walk:
    """The walk before its first step."""
    bound = rule.bind(phi)
    with torch.no_grad():
        state = vmap(lambda params: flatten(bound.init(params))[0])(problem.start)
    return Walk(problem.start, tuple(state), 0, problem.memory)


@dataclass(frozen=True)
class Unroll:
    """A stretch of a walk that is differentiated by the rule's weights.

    Args:
        rule: what is learned.
        steps: how many.
        weights: w_1 ... w_steps of the losses after each step; None weighs them alike. They are divided by their sum.
        measure: "loss" adds up losses, as in the paper; "log" their logarithms, so that the last digits of a loss
            that has become small still count.
        recompute: keep only what stands between segments of this length, 0 for ceil(sqrt(steps)); None keeps all.
    """

    rule: InnerOptimizer
    steps: int
    weights: Sequence[float] | None = None
    measure: Measure = "loss"
    recompute: int | None = None

    def __call__(self, phi: Params, problem: Optimizee, walk: Walk) -> tuple[Tensor, Tensor, Walk]:
        """Go on from `walk`.

        Returns:
            the meta-loss, a scalar, the mean over tasks; the losses at the end (tasks,), and where the tasks are then.
        """
        names, places, kept = list(phi), list(walk.params), list(walk.memory)
        weights = [0.0, *(self.weights or [1.0] * self.steps)]  # of the losses at theta_0, which owes nothing to phi
        share = 1 / sum(weights)

        def pack(params: Params, state: Sequence[Tensor], memory: Params, total: Tensor) -> tuple[Tensor, ...]:
            return (total, *params.values(), *memory.values(), *state)

        def unpack(carried: Sequence[Tensor]) -> tuple[Params, tuple[Tensor, ...], Params, Tensor]:
            total, *rest = carried
            params, rest = dict(zip(places, rest, strict=False)), rest[len(places) :]
            return params, tuple(rest[len(kept) :]), dict(zip(kept, rest, strict=False)), total

        def stretch(
            shared: tuple[Tensor, ...], carried: tuple[Tensor, ...], first: int, count: int
        ) -> tuple[Tensor, ...]:
            rule_phi = dict(zip(names, shared, strict=True))
            params, state, memory, total = unpack(carried)
            for i in range(first, first + count):
                losses, grads, memory = loss_gradients(problem, params, memory, walk.taken + i)
                total = total + share * weights[i] * self._judged(losses, grads, params)
                updates, state = rule_updates(self.rule, rule_phi, grads, state, params, losses)
                params = tree_add(params, updates)
            return pack(params, state, memory, total)

        shared, carried = tuple(phi.values()), pack(walk.params, walk.state, walk.memory, _zero(walk.params))
        lengths = [self.steps] if self.recompute is None else segment_lengths(self.steps, self.recompute or None)
        first = 0
        for count in lengths:
            run = partial(stretch, first=first, count=count)
            if self.recompute is None:
                carried = run(shared, carried)
            else:
                shared, carried = recomputed(run, shared, carried)
            first += count
        params, state, memory, total = unpack(carried)
        losses, grads, _ = loss_gradients(problem, params, memory, walk.taken + self.steps)
        total = total + share * weights[self.steps] * self._judged(losses, grads, params)
        return total, losses, Walk(params, state, walk.taken + self.steps, memory)

    def _judged(self, losses: Tensor, grads: Params, params: Params) -> Tensor:
        """The mean loss (or logarithm), whose derivative by the parameters is known already: a scalar."""
        tasks = len(losses)
        scale = 1 / losses if self.measure == "log" else torch.ones_like(losses)
        value = (losses.log() if self.measure == "log" else losses).mean()
        for name, grad in grads.items():
            weight = (scale / tasks).reshape(-1, *(1,) * (grad.ndim - 1))
            # theta - theta is 0: the value stays, the derivative is the gradient.
            value = value + ((params[name] - params[name].detach()) * (grad * weight)).sum()
        return value


def optimize(rule: InnerOptimizer, phi: Params, problem: Optimizee, steps: int) -> Tensor:
    """Let the rule work; nothing is differentiated.

    Returns:
        the losses before each step and after the last one, (steps + 1, tasks).
    """
    params, state, _, memory = begin(rule, phi, problem)
    path = []
    with torch.no_grad():
        for step in range(steps):
            losses, grads, memory = loss_gradients(problem, params, memory, step)
            path.append(losses)
            updates, state = rule_updates(rule, phi, grads, state, params, losses)
            params = tree_add(params, updates)
        path.append(problem.look(params, memory, steps)[0])
    return torch.stack(path)


def loss_gradients(problem: Optimizee, params: Params, memory: Params, step: int) -> tuple[Tensor, Params, Params]:
    """The losses (tasks,), each task's gradient, and the memory after the step; all without graph."""
    with torch.enable_grad():
        leaves = tree_map(lambda p: p.detach().requires_grad_(), params)
        losses, after = problem.look(leaves, tree_map(Tensor.detach, memory), step)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return losses.detach(), dict(zip(leaves, grads, strict=True)), tree_map(Tensor.detach, after)


def rule_updates(
    rule: InnerOptimizer, phi: Params, grads: Params, state: tuple[Tensor, ...], params: Params, losses: Tensor
) -> tuple[Params, tuple[Tensor, ...]]:
    """One step of the rule on each task: its updates, and its state as in `Walk`."""
    bound = rule.bind(phi)
    _, rebuild = flatten(bound.init(tree_map(lambda p: p[0].detach(), params)))

    def one(
        grads: Params, state: tuple[Tensor, ...], params: Params, loss: Tensor
    ) -> tuple[Params, tuple[Tensor, ...]]:
        updates, after = bound.update(grads, rebuild(state), params, loss)
        return updates, flatten(after)[0]

    updates, after = vmap(one)(grads, state, params, losses)
    return updates, after


def _zero(params: Params) -> Tensor:
    return next(iter(params.values())).new_zeros(())
