"""From a recipe's sections to the plain values that the outer loop takes. The only file that knows both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kshot_models.losses import Loss, mean_squared_error, weighted_cross_entropy
from kshot_models.manifest import LearnerSpec
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map
from kshot_models.types import Episode, Learner, MetaParams
from kshot_training import schedules
from kshot_training.meta_gradient_sections import Imaml, InTurn, Joint, Reptile, ThroughAdaptation
from kshot_training.meta_gradients import MetaGradient, compiled, imaml, in_turn, joint, reptile, through_adaptation
from kshot_training.meta_gradients.all_classes import with_classifier
from kshot_training.meta_gradients.reptile import plan_steps
from kshot_training.meta_gradients.tasks import split_tasks
from kshot_training.outer_loop import Clipping, MetaGradientSchedule, OuterState, always, start
from kshot_training.outer_optimizers import build_outer_optimizer
from kshot_training.recipe import OuterSection, Recipe, ScheduleSection


def build_loss(spec: LearnerSpec) -> Loss:
    """The loss that the learner's kind is trained and judged by."""
    return mean_squared_error if spec.type == "gradient_regression" else weighted_cross_entropy


def fresh_meta(
    learner: Learner, *, seed: int, device: str | torch.device = "cpu", classes: int | None = None
) -> MetaParams:
    """New meta-parameters for training on `device`, with a classifier of all `classes` if they are given."""
    generator = torch.Generator().manual_seed(seed)
    meta = learner.init(generator)
    if classes is not None:
        meta = with_classifier(meta, learner, classes, generator)
    return meta_map(lambda t: laid_out(t.to(device)), meta)


def joint_classes(recipe: Recipe) -> int | None:
    """How many classes the recipe's joint training tells apart at once; None where it does not."""
    return recipe.meta_gradient.classes if isinstance(recipe.meta_gradient, Joint) else None


def laid_out(tensor: Tensor) -> Tensor:
    """The tensor in the layout that trains fastest: convolution weights channels-last, so that features become it."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.contiguous()


def build_meta_gradient(recipe: Recipe, *, workers: int = 1) -> MetaGradientSchedule:
    """The recipe's meta-gradient by outer step; `workers` tasks run side by side where it takes them one at a time."""
    section = recipe.meta_gradient
    return META_GRADIENTS[section.type](section, recipe.learner, workers)


def skip_draws(recipe: Recipe) -> Callable[[Episode, torch.Generator, int], None]:
    """A function that draws from a step's generator what so many tasks of the recipe's meta-gradient would draw."""
    section = recipe.meta_gradient
    if not isinstance(section, Reptile):  # the only one whose tasks draw anything
        return lambda episodes, generator, tasks: None
    steps = section.steps or recipe.learner.steps

    def skip(episodes: Episode, generator: torch.Generator, tasks: int) -> None:
        for task in split_tasks(episodes)[:tasks]:
            plan_steps(task.support, section.batch, steps, generator, tail_shots=section.tail_shots)

    return skip


def _through_adaptation(section: ThroughAdaptation, learner: LearnerSpec, workers: int) -> MetaGradientSchedule:
    @lru_cache(maxsize=1)  # it changes rarely, and only forwards
    def gradient(*, first_order: bool, step_weights: tuple[float, ...] | None) -> MetaGradient:
        plain = through_adaptation(
            first_order=first_order,
            step_weights=step_weights,
            norm_momentum=section.norm_momentum,
            recompute=section.recompute,
            batching=section.batching,
            chunk_size=section.chunk_size,
            workers=workers,
            loss=build_loss(learner),
        )
        return compiled(plain) if section.compile else plain

    annealed = schedules.multi_step_weights(
        inner_steps=max(learner.steps, 1), until=section.multi_step_until, epoch=section.multi_step_epoch
    )

    def at(step: int) -> MetaGradient:
        first_order = section.order == 1 or step < section.first_order_until
        step_weights = annealed(step) if section.step_weights is None else section.step_weights
        return gradient(first_order=first_order, step_weights=step_weights)

    return at


def _in_turn(section: InTurn, learner: LearnerSpec, workers: int) -> MetaGradientSchedule:
    return always(
        in_turn(
            norm_momentum=section.norm_momentum,
            batching=section.batching,
            chunk_size=section.chunk_size,
            loss=build_loss(learner),
            workers=workers,
        )
    )


def _imaml(section: Imaml, learner: LearnerSpec, workers: int) -> MetaGradientSchedule:
    return always(
        imaml(
            strength=section.strength,
            cg_steps=section.cg_steps,
            damping=section.damping,
            batching=section.batching,
            chunk_size=section.chunk_size,
            workers=workers,
            loss=build_loss(learner),
        )
    )


def _reptile(section: Reptile, learner: LearnerSpec, workers: int) -> MetaGradientSchedule:
    return always(
        reptile(
            batch=section.batch,
            steps=section.steps,
            direction=section.direction,
            tail_shots=section.tail_shots,
            batching=section.batching,
            chunk_size=section.chunk_size,
            loss=build_loss(learner),
            workers=workers,
        )
    )


def _joint(section: Joint, learner: LearnerSpec, workers: int) -> MetaGradientSchedule:
    return always(
        joint(batching=section.batching, chunk_size=section.chunk_size, loss=build_loss(learner), workers=workers)
    )


# By the `type` of the section in meta_gradient_sections.py. A new meta-gradient is a section there and a row here.
META_GRADIENTS: Mapping[str, Callable[[Any, LearnerSpec, int], MetaGradientSchedule]] = {
    "imaml": _imaml,
    "in_turn": _in_turn,
    "joint": _joint,
    "reptile": _reptile,
    "through_adaptation": _through_adaptation,
}


def build_schedule(section: ScheduleSection, *, steps: int) -> schedules.Schedule:
    """The learning-rate schedule over `steps` outer steps."""
    match section.type:
        case "constant":
            base = schedules.constant()
        case "cosine":
            base = schedules.cosine(steps=steps, final=section.final)
        case "linear":
            base = schedules.linear(steps=steps, final=section.final)
        case "step":
            assert section.every is not None  # checked by the recipe
            base = schedules.step_decay(every=section.every, factor=section.factor)
    return schedules.with_warmup(base, steps=section.warmup)


def build_state(meta: MetaParams, section: OuterSection) -> OuterState:
    """The outer optimizer over `meta`, before the first step."""
    optimizer = build_outer_optimizer(
        meta,
        section.optimizer,
        learning_rate=section.learning_rate,
        scales=section.scales,
        weight_decay=section.weight_decay,
        options=section.options,
    )
    return start(meta, optimizer, averaging=section.average_decay > 0)


def build_clipping(section: OuterSection) -> Clipping:
    """The bounds on the meta-gradient."""
    return Clipping(norm=section.clip_norm, value=section.clip_value)


__all__ = [
    "META_GRADIENTS",
    "build_clipping",
    "build_learner",
    "build_loss",
    "build_meta_gradient",
    "build_schedule",
    "build_state",
    "fresh_meta",
    "joint_classes",
    "laid_out",
    "skip_draws",
]
