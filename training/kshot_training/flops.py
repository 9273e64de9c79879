"""What an outer step costs, counted by program: on torch's "meta" device, where tensors have shapes and no values.

Counted are convolutions and matrix products, two operations a multiply-add, as torch.utils.flop_counter does. What
depends on values (an early end of conjugate gradients, a line search) counts as if it ran its course.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from kshot_models.types import Episode, Examples
from kshot_training.build import build_learner, build_meta_gradient, fresh_meta, joint_classes
from kshot_training.meta_gradient_sections import ThroughAdaptation
from kshot_training.meta_gradients.base import PlannedGradient
from kshot_training.recipe import Recipe
from kshot_training.sections import Span

__all__ = ["meta_device_step", "outer_step_flops"]


def outer_step_flops(recipe: Recipe) -> int:
    """Floating-point operations of one outer step at the largest way and shot of the recipe's episodes."""
    with FlopCounterMode(display=False) as counter:
        meta_device_step(recipe)
    return int(counter.get_total_flops()) * recipe.episodes.tasks


def meta_device_step(recipe: Recipe) -> None:
    """The meta-gradient of one task without values.

    It also shows that the recipe computes on one device: a tensor made on the CPU in passing would be refused.
    """
    learner = build_learner(recipe.learner, recipe.input)
    meta = fresh_meta(learner, seed=0, device="meta", classes=joint_classes(recipe))
    way, shot = _largest(recipe.episodes.way), _largest(recipe.episodes.shot)
    regression = recipe.learner.type == "gradient_regression"
    spec = recipe.input
    shape = (1,) if regression else (spec.channels, spec.height, spec.width)

    def examples(count: int) -> Examples:
        target = torch.float32 if regression else torch.int64
        return Examples(
            torch.empty(1, count, *shape, device="meta"),
            torch.empty(1, count, dtype=target, device="meta"),
            torch.empty(1, count, device="meta"),
        )

    episodes = Episode(examples(way * shot), examples(way * recipe.episodes.queries))
    gradient_of = build_meta_gradient(_uncompiled(recipe))(0)
    generator = torch.Generator().manual_seed(0)
    if not isinstance(gradient_of, PlannedGradient):
        gradient_of(learner, meta, episodes, way=way, generator=generator)
        return
    # Which examples a step takes depends on classes, so the plan needs some that have values.
    classes = torch.arange(way).repeat_interleave(shot)[None]
    plan = gradient_of.plan(
        learner, Examples(torch.empty(1, way * shot), classes, torch.ones(1, way * shot)), generator
    )
    gradient_of.follow(learner, meta, episodes, tuple(step.to("meta") for step in plan), way=way)


def _uncompiled(recipe: Recipe) -> Recipe:
    section = recipe.meta_gradient
    if not isinstance(section, ThroughAdaptation):
        return recipe
    return recipe.model_copy(update={"meta_gradient": section.model_copy(update={"compile": False})})


def _largest(span: Span) -> int:
    return span if isinstance(span, int) else span[1]
