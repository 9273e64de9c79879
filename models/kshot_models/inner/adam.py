"""Adam as an inner optimizer (Kingma and Ba, 2015, arXiv:1412.6980), with second moments that may be carried in.

Reptile adapts with beta1 = 0 and starts a test task from the second moments of meta-training (Nichol et al., 2018,
arXiv:1803.02999): they are the artifact's `inner` part then, with the number of steps that they have seen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.batched import native
from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective, carry_nothing
from kshot_models.serving import alone
from kshot_models.tree import tree_map
from kshot_models.types import Params

__all__ = ["AdamState", "adam"]


class AdamState(NamedTuple):
    """State of one adaptation."""

    first: Params  # running mean of gradients, shaped like the fast weights
    second: Params  # running mean of squared gradients
    steps: Tensor  # () float, steps that the moments have seen


def adam(
    *, rate: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, carry_moments: bool = False
) -> InnerOptimizer:
    """phi' = phi - rate * m_hat / (sqrt(v_hat) + epsilon).

    Args:
        rate: step size.
        beta1: decay of the first moment; 0 drops momentum.
        beta2: decay of the second moment.
        epsilon: keeps the denominator away from 0.
        carry_moments: begin each adaptation from second moments that belong to the meta-parameters, not from 0.
    """

    def init(params: Params, generator: torch.Generator) -> Params:
        del generator
        if not carry_moments:
            return {}
        return {**{f"second.{name}": torch.zeros_like(p) for name, p in params.items()}, "steps": torch.zeros(())}

    def bind(phi: Params) -> GradientTransformation:
        def start(params: Params) -> AdamState:
            first = tree_map(torch.zeros_like, params)
            if not carry_moments:
                some = next(iter(params.values()))
                return AdamState(first, tree_map(torch.zeros_like, params), some.new_zeros(()))
            second = {name: phi[f"second.{name}"].expand(p.shape) for name, p in params.items()}
            return AdamState(first, second, phi["steps"])

        def update(
            grads: Params, state: AdamState, params: Params, loss: Tensor, *, objective: Objective | None = None
        ) -> tuple[Params, AdamState]:
            del params, loss, objective
            if alone() and all(g.device.type == "cpu" and g.dtype == torch.float32 for g in grads.values()):
                return _in_one_call(grads, state, rate, (beta1, beta2), epsilon)
            steps = state.steps + 1
            first = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, grads)
            second = tree_map(lambda v, g: beta2 * v + (1 - beta2) * g.square(), state.second, grads)
            unbias1, unbias2 = 1 - beta1**steps, 1 - beta2**steps

            def step(m: Tensor, v: Tensor) -> Tensor:
                return -rate * (m / unbias1) / (_sqrt(v / unbias2) + epsilon)

            return tree_map(step, first, second), AdamState(first, second, steps)

        return GradientTransformation(start, update)

    def carry(phi: Params, state: AdamState) -> Params:
        # A head row that stands for any class takes the mean over the classes of this task.
        second = {f"second.{name}": v for name, v in state.second.items()}
        means = {name: v if v.shape == phi[name].shape else v.mean(0, keepdim=True) for name, v in second.items()}
        return {**means, "steps": state.steps}

    return InnerOptimizer(init, bind, carry if carry_moments else carry_nothing)


def _in_one_call(
    grads: Params, state: AdamState, rate: float, betas: tuple[float, float], epsilon: float
) -> tuple[Params, AdamState]:
    """What `update` gives, without derivatives."""

    def named(tensors: list[Tensor]) -> Params:
        return dict(zip(grads, tensors, strict=True))

    first, second = ([moments[name] for name in grads] for moments in (state.first, state.second))
    steps = state.steps + 1
    updates, new_first, new_second = native.adam_step(
        list(grads.values()), first, second, rate=rate, betas=betas, epsilon=epsilon, steps=float(steps)
    )
    return named(updates), AdamState(named(new_first), named(new_second), steps)


def _sqrt(value: Tensor) -> Tensor:
    # The derivative of sqrt at 0 is infinite: a weight without gradient (a dead ReLU) would turn meta-gradients
    # into NaN. Masked on both sides, so that neither the value nor the gradient of the branch not taken counts.
    dead = value == 0
    return torch.where(dead, torch.zeros_like(value), torch.where(dead, torch.ones_like(value), value).sqrt())
