"""What one outer step of a learned optimizer follows: the gradient of a stretch of work, or a policy gradient.

[unroll]            ──> Truncated    backpropagation through the rule's steps; a walk goes on from step to step
[policy_gradient]   ──> Episodic     likelihood ratios; every outer step rolls out from the start of new problems
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.tree import tree_map
from kshot_models.types import MetaParams, Params
from kshot_training.meta_gradients.base import Metrics
from kshot_training.optimizer_recipe import OptimizerRecipe, PolicyGradientSection
from kshot_training.policy_gradient import Noise, PolicyGradient, relative_spread
from kshot_training.problems import ProblemFamily
from kshot_training.truncated import Truncated
from kshot_training.unroll import Unroll

__all__ = ["Episodic", "OptimizerGradient", "build_optimizer_gradient", "normal_noise"]


class OptimizerGradient(Protocol):
    """A gradient by outer step, and where it stands, for checkpoints."""

    def gradient(self, meta: MetaParams, step: int) -> tuple[MetaParams, Metrics]:
        """The gradient by `meta.inner` at outer step `step`."""
        ...

    def tensors(self) -> tuple[Params, dict[str, int]]:
        """What the next outer step goes on from: tensors, and values that are none."""
        ...

    def load(self, tensors: Params, values: Mapping[str, Any]) -> None:
        """Put back what `tensors` returned."""
        ...


class Episodic:
    """The policy gradient on new problems at every outer step, which is a function of (seed, step) and leaves nothing.

    Args:
        estimator: number of steps -> how a rollout of so many is judged.
        family: training problems.
        tasks: of each problem, side by side.
        horizon: outer step -> length of its rollouts.
        seed: of the noise.
    """

    def __init__(
        self,
        estimator: Callable[[int], PolicyGradient],
        family: ProblemFamily,
        *,
        tasks: int,
        horizon: Callable[[int], int],
        seed: int,
    ) -> None:
        self._estimator, self._family, self._tasks = estimator, family, tasks
        self._horizon, self._seed = horizon, seed

    def gradient(self, meta: MetaParams, step: int) -> tuple[MetaParams, Metrics]:
        """See OptimizerGradient."""
        noise = normal_noise((self._seed << 32) + step)
        estimate = self._estimator(self._horizon(step))
        cost, grads, final = estimate(meta.inner, self._family.draw(step, self._tasks), noise)
        return MetaParams({}, grads, {}), Metrics(cost, cost.new_full((), torch.nan), {"final_loss": final.mean()})

    def tensors(self) -> tuple[Params, dict[str, int]]:
        """Nothing goes on."""
        return {}, {}

    def load(self, tensors: Params, values: Mapping[str, Any]) -> None:
        """See `tensors`."""


def normal_noise(seed: int) -> Noise:
    """Standard normal draws of one generator, in the order of the steps."""
    generator = torch.Generator().manual_seed(seed)

    def draw(mean: Tensor) -> Tensor:
        return torch.randn(mean.shape, generator=generator).to(mean)

    return lambda step, means: tree_map(draw, means)


def build_optimizer_gradient(recipe: OptimizerRecipe, rule: InnerOptimizer, family: ProblemFamily) -> OptimizerGradient:
    """What the recipe trains by."""
    section = recipe.way_to_train
    if isinstance(section, PolicyGradientSection):
        spread = relative_spread(section.noise)

        def estimator(steps: int) -> PolicyGradient:
            return PolicyGradient(rule, steps, section.rollouts, spread, section.measure, section.floor)

        return Episodic(estimator, family, tasks=section.tasks, horizon=section.horizon, seed=recipe.seed)
    unroll = Unroll(rule, section.steps, section.loss_weights, section.measure, section.recompute)
    return Truncated(unroll, family, tasks=section.tasks, horizon=section.horizon)
