"""The outer loop: sample episodes, estimate the meta-gradient, take an outer step. Yields metrics, prints nothing.

    sampler(step) ──episodes──> meta_gradient ──grads──> clip ──> optimizer.step ──> average
          ^                                                              │
          └────────────────────────── step + 1 <─────────────────────────┘

All randomness of a step is a function of (seed, step), and all else that it depends on is in `OuterState`: a run that
is stopped after any step and goes on from its checkpoint makes the same numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.load import meta_to_arrays
from kshot_models.tree import meta_map, under
from kshot_models.types import Episode, Learner, MetaParams, Params
from kshot_training.averaging import start_average, update_average
from kshot_training.errors import NonFiniteError
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.outer_optimizers import OuterOptimizer, leaves
from kshot_training.schedules import Schedule

__all__ = [
    "Clipping",
    "MetaBatch",
    "MetaGradientSchedule",
    "OuterState",
    "Sample",
    "StepMetrics",
    "always",
    "check_meta",
    "clip",
    "copy_into",
    "outer_loop",
    "outer_steps",
    "snapshot",
    "start",
]


class MetaBatch(NamedTuple):
    """The episodes of one outer step; all have the same way."""

    episodes: Episode  # every tensor with a leading tasks axis
    way: int


Sample = Callable[[int], MetaBatch]
MetaGradientSchedule = Callable[[int], MetaGradient]  # by the outer steps taken before: losses and orders are annealed


def always(meta_gradient: MetaGradient) -> MetaGradientSchedule:
    """The same meta-gradient at every step."""
    return lambda step: meta_gradient


class StepMetrics(NamedTuple):
    """What one outer step saw."""

    step: int  # outer steps taken, this one included
    loss: float
    accuracy: float  # NaN for a regression
    grad_norm: float  # before clipping
    learning_rate: float
    diagnostics: Mapping[str, float] = MappingProxyType({})  # see Metrics
    settled: bool = True  # whether the state is that after this step; a device that runs ahead is behind at some


class Clipping(NamedTuple):
    """Bounds on the meta-gradient; None is no bound."""

    norm: float | None = None  # of all gradients together
    value: float | None = None  # of each entry


@dataclass
class OuterState:
    """Where training stands. The optimizer changes `meta` in place."""

    step: int
    meta: MetaParams
    optimizer: OuterOptimizer
    average: MetaParams | None

    def tensors(self) -> tuple[Params, dict[str, object]]:
        """All of it but the step, flat, for a checkpoint: tensors, and values that are none."""
        state, values = self.optimizer.state()
        named = {f"meta/{name}": tensor for name, tensor in meta_to_arrays(self.meta).items()}
        if self.average is not None:
            named |= {f"average/{name}": tensor for name, tensor in meta_to_arrays(self.average).items()}
        return named | {f"optimizer/{name}": tensor for name, tensor in state.items()}, values

    def load(self, step: int, tensors: Params, values: dict[str, object]) -> None:
        """Put back what `tensors` returned after `step` steps."""
        self.step = step
        copy_into(self.meta, under("meta/", tensors))
        if self.average is not None:
            copy_into(self.average, under("average/", tensors))
        self.optimizer.load_state(under("optimizer/", tensors), values)


def start(meta: MetaParams, optimizer: OuterOptimizer, *, averaging: bool) -> OuterState:
    """The state before the first step."""
    return OuterState(0, meta, optimizer, start_average(meta) if averaging else None)


def outer_loop(
    state: OuterState,
    learner: Learner,
    sample: Sample,
    meta_gradient: MetaGradientSchedule,
    *,
    steps: int,
    schedule: Schedule,
    seed: int,
    clipping: Clipping = Clipping(),  # noqa: B008 - an immutable value
    average_decay: float = 0.0,
) -> Iterator[StepMetrics]:
    """Run from `state.step` to `steps`; `state` is up to date whenever a value is yielded.

    Raises:
        NonFiniteError: Loss, a gradient or a meta-parameter became NaN or infinite; the message has the step.
    """
    generator = torch.Generator()

    def gradient(step: int) -> tuple[MetaParams, Metrics]:
        batch = sample(step)
        generator.manual_seed((seed << 32) + step)
        gradient_of = meta_gradient(step)
        return gradient_of(learner, state.meta, batch.episodes, way=batch.way, generator=generator)

    return outer_steps(state, gradient, steps=steps, schedule=schedule, clipping=clipping, average_decay=average_decay)


def outer_steps(
    state: OuterState,
    gradient: Callable[[int], tuple[MetaParams, Metrics]],
    *,
    steps: int,
    schedule: Schedule,
    clipping: Clipping = Clipping(),  # noqa: B008 - an immutable value
    average_decay: float = 0.0,
) -> Iterator[StepMetrics]:
    """The same for any gradient by outer step, whatever it is taken on; see `outer_loop`."""
    while state.step < steps:
        step = state.step
        grads, metrics = gradient(step)
        loss = float(metrics.loss)
        named = leaves(grads)
        norm = float(clip(named, clipping))
        _check_finite(step, loss, norm, named)
        factor = schedule(step)
        state.optimizer.step(named, factor=factor)
        for name, counted in state.meta.stats.items():
            counted.sub_(grads.stats[name])
        if state.average is not None:
            update_average(state.average, state.meta, decay=average_decay, step=step)
        state.step = step + 1
        told = {name: float(value) for name, value in metrics.diagnostics.items()}
        yield StepMetrics(state.step, loss, float(metrics.accuracy), norm, state.optimizer.learning_rate * factor, told)


def clip(grads: Params, clipping: Clipping) -> Tensor:
    """Clip in place, entries before the norm.

    Returns:
        The norm of all gradients together before anything was clipped.
    """
    norm = _total_norm(grads)
    if clipping.value is not None:
        for grad in grads.values():
            grad.clamp_(-clipping.value, clipping.value)
    if clipping.norm is not None:
        clipped = norm if clipping.value is None else _total_norm(grads)
        shrink = (clipping.norm / clipped).clamp_max(1.0)  # not an `if`, which would wait for the device
        for grad in grads.values():
            grad.mul_(shrink)
    return norm


def _total_norm(grads: Params) -> Tensor:
    norms: list[Tensor] = [torch.linalg.vector_norm(grad) for grad in grads.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _check_finite(step: int, loss: float, norm: float, grads: Params) -> None:
    if not torch.tensor(loss).isfinite():
        raise NonFiniteError(step, f"the query loss is {loss}")
    if not torch.tensor(norm).isfinite():
        broken = [name for name, grad in grads.items() if not grad.isfinite().all()]
        raise NonFiniteError(step, f"the meta-gradient is not finite in {', '.join(broken[:4]) or 'its norm'}")


def check_meta(state: OuterState) -> None:
    """Refuse meta-parameters that the last step made infinite or NaN: too high a rate does that to a finite gradient.

    Raises:
        NonFiniteError: With the names of the tensors.
    """
    broken = [name for name, tensor in meta_to_arrays(state.meta).items() if not tensor.isfinite().all()]
    if broken:
        raise NonFiniteError(state.step - 1, f"the meta-parameters are not finite in {', '.join(broken[:4])}")


def copy_into(meta: MetaParams, named: Params) -> None:
    """Overwrite the tensors of `meta` in place; `named` is as `meta_to_arrays` makes it."""
    for name, tensor in meta_to_arrays(meta).items():
        tensor.copy_(named[name])


def snapshot(meta: MetaParams) -> MetaParams:
    """A copy that later steps do not change."""
    return meta_map(torch.clone, meta)
