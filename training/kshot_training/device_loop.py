"""The outer loop on a GPU: many steps from one call of the host.

    episodes of K steps ──> buffers on the device ─┐
    rates of K steps    ──>                        ├──> K times the program: pick step i ─> meta-gradient ─> clip
    plans of K steps    ──>                        ─┘                        ─> optimizer ─> average ─> row i of metrics

A meta-gradient is hundreds of small kernels, and a host that launches them one by one is slower than they are. So the
program of a step is captured once as a CUDA graph, and played again for each step: it reads its number from a counter
on the device. What changes from step to step stands in buffers, drawn for K steps at once; the host waits once in K
steps, to read the metrics. The same numbers as `outer_loop` makes, up to the rounding of the kernels.

Where there is no GPU the program runs as it is, which is how tests compare the two loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from kshot_models.batched import tf32_products
from kshot_models.types import Episode, Examples, Learner, MetaParams
from kshot_training.averaging import average_weight, blend
from kshot_training.cuda_graph import captured
from kshot_training.errors import NonFiniteError
from kshot_training.meta_gradients.base import MetaGradient, Metrics, Plan, PlannedGradient
from kshot_training.outer_loop import (
    Clipping,
    MetaBatch,
    MetaGradientSchedule,
    OuterState,
    StepMetrics,
    clip,
)
from kshot_training.outer_optimizers import leaves
from kshot_training.schedules import Schedule

__all__ = ["MOST_STEPS", "Batches", "device_loop", "steps_at_once"]

MOST_STEPS = 100
"""How many steps are prepared at once, at most."""


class Batches(Protocol):
    """Meta-batches by outer step, which can be drawn for several steps as one."""

    @property
    def tasks(self) -> int:
        """Episodes per outer step."""
        ...

    @property
    def steady(self) -> bool:
        """Whether all steps have episodes of one shape."""
        ...

    def __call__(self, number: int, /) -> MetaBatch:
        """Those of one step."""
        ...

    def together(self, number: int, steps: int) -> MetaBatch:
        """Those of the steps number * steps .. (number + 1) * steps - 1, one after another."""
        ...


@dataclass(frozen=True)
class _Buffers:
    """What the program reads and writes; the first axis of most is the step within K."""

    step: Tensor  # (1,) int64: the next row
    factors: Tensor  # (K,) of the learning rate
    averaging: Tensor  # (K,) the weight of new meta-parameters in the average
    episodes: tuple[Tensor, ...]  # (K, tasks, ...) support and query
    plans: list[Tensor]  # (K, tasks, ...) of meta-gradients that plan
    rows: Tensor  # (K, 3 + diagnostics)


def steps_at_once(*periods: int) -> int:
    """How many steps to take at once so that none of `periods` ends between: a divisor of all of them."""
    common = math.gcd(*periods)
    return max(divisor for divisor in range(1, min(common, MOST_STEPS) + 1) if common % divisor == 0)


def device_loop(  # noqa: PLR0913 - the arguments of outer_loop, and one
    state: OuterState,
    learner: Learner,
    batches: Batches,
    meta_gradient: MetaGradientSchedule,
    *,
    steps: int,
    schedule: Schedule,
    seed: int,
    clipping: Clipping = Clipping(),  # noqa: B008 - an immutable value
    average_decay: float = 0.0,
    at_once: int = MOST_STEPS,
) -> Iterator[StepMetrics]:
    """As `outer_loop`, for episodes of one shape; `state` is up to date where a value is yielded as `settled`.

    Args:
        state: On the device; see `outer_loop` for this and what follows.
        learner: What is trained.
        batches: Episodes on the same device.
        meta_gradient: By outer step; each other one is captured anew.
        steps: Where to end.
        schedule: Of the learning rate.
        seed: Of the randomness of each step.
        clipping: Of the meta-gradient.
        average_decay: Of the moving average.
        at_once: K; every K-th step is settled.

    Raises:
        NonFiniteError: Loss or gradient became NaN or infinite; the message has the step, `state` is of a later one.
    """
    loop = _DeviceLoop(state, learner, batches, seed, clipping, at_once)
    while state.step < steps:
        first = state.step // at_once * at_once
        end = min(steps, first + at_once)
        way = loop.fill(first, schedule, average_decay)
        while state.step < end:
            gradient = meta_gradient(state.step)
            until = next((s for s in range(state.step + 1, end) if meta_gradient(s) is not gradient), end)
            yield from loop.run(gradient, until, way, schedule)


class _DeviceLoop:
    def __init__(
        self, state: OuterState, learner: Learner, batches: Batches, seed: int, clipping: Clipping, at_once: int
    ) -> None:
        self.state, self.learner, self.batches = state, learner, batches
        self.seed, self.clipping, self.at_once = seed, clipping, at_once
        self.device = next(iter(state.meta.init.values())).device
        self.buffers: _Buffers | None = None
        self.captured: tuple[MetaGradient, Callable[[], None]] | None = None
        self.names: tuple[str, ...] = ()  # of the diagnostics
        self.first = 0  # the step of row 0

    def fill(self, first: int, schedule: Schedule, average_decay: float) -> int:
        """Prepare the K steps from `first` on; returns their way."""
        drawn = self.batches.together(first // self.at_once, self.at_once)
        parts = [t.reshape(self.at_once, -1, *t.shape[1:]) for examples in drawn.episodes for t in examples]
        numbers = range(first, first + self.at_once)
        factors = torch.tensor([schedule(step) for step in numbers])
        averaging = torch.tensor([average_weight(average_decay, step) for step in numbers])
        self.first = first
        if self.buffers is None:
            rows = torch.zeros(self.at_once, 0, device=self.device)
            counter = torch.zeros(1, dtype=torch.int64, device=self.device)
            own = tuple(part.clone() for part in parts)
            self.buffers = _Buffers(counter, factors.to(self.device), averaging.to(self.device), own, [], rows)
            return drawn.way
        for kept, new in zip(self.buffers.episodes, parts, strict=True):
            kept.copy_(new)
        self.buffers.factors.copy_(factors)
        self.buffers.averaging.copy_(averaging)
        return drawn.way

    def run(self, gradient: MetaGradient, until: int, way: int, schedule: Schedule) -> Iterator[StepMetrics]:
        """Take the steps up to `until` and tell of each."""
        state, begin = self.state, self.state.step
        assert self.buffers is not None
        if isinstance(gradient, PlannedGradient):
            self._fill_plans(gradient)
        program = self._program(gradient, way)
        self.buffers.step.fill_(begin - self.first)
        for _ in range(begin, until):
            program()
        rows = self.buffers.rows[begin - self.first : until - self.first].cpu().tolist()  # waits for the device
        for step, (loss, right, norm, *told) in enumerate(rows, start=begin):
            for what, value in (("query loss", loss), ("norm of the meta-gradient", norm)):
                if not math.isfinite(value):
                    raise NonFiniteError(step, f"the {what} is {value}")
            state.step = step + 1
            rate = state.optimizer.learning_rate * schedule(step)
            diagnostics = dict(zip(self.names, told, strict=True))
            yield StepMetrics(state.step, loss, right, norm, rate, diagnostics, settled=step + 1 == until)

    def _fill_plans(self, gradient: PlannedGradient) -> None:
        assert self.buffers is not None
        generator = torch.Generator()
        plans: list[Plan] = []
        supports = Examples(*self.buffers.episodes[:3])
        for row in range(self.at_once):
            generator.manual_seed((self.seed << 32) + self.first + row)
            plans.append(gradient.plan(self.learner, Examples(*(part[row] for part in supports)), generator))
        together = [torch.stack(parts).to(self.device) for parts in zip(*plans, strict=True)]
        if not self.buffers.plans:
            self.buffers.plans.extend(together)
        for kept, new in zip(self.buffers.plans, together, strict=True):
            kept.copy_(new)

    def _program(self, gradient: MetaGradient, way: int) -> Callable[[], None]:
        if self.captured is None or self.captured[0] is not gradient:
            self.captured = (gradient, self._capture(gradient, way))
        return self.captured[1]

    def _capture(self, gradient: MetaGradient, way: int) -> Callable[[], None]:
        before = {name: tensor.clone() for name, tensor in self.state.tensors()[0].items()}

        def program() -> None:
            with tf32_products():  # a meta-gradient is noisier than their rounding
                self._take_step(gradient, way)

        def restore() -> None:
            for name, tensor in self.state.tensors()[0].items():
                tensor.copy_(before[name]) if name in before else tensor.zero_()

        return captured(program, self.device, restore=restore)

    def _take_step(self, gradient: MetaGradient, way: int) -> None:
        """One outer step, the one that the counter stands at; nothing in it waits for the device."""
        state, buffers = self.state, self.buffers
        assert buffers is not None
        at = buffers.step
        s_inputs, s_targets, s_weights, q_inputs, q_targets, q_weights = (_pick(part, at) for part in buffers.episodes)
        episodes = Episode(Examples(s_inputs, s_targets, s_weights), Examples(q_inputs, q_targets, q_weights))
        if isinstance(gradient, PlannedGradient):
            plan = tuple(_pick(part, at) for part in buffers.plans)
            grads, metrics = gradient.follow(self.learner, state.meta, episodes, plan, way=way)
        else:
            nothing_random = torch.Generator()
            grads, metrics = gradient(self.learner, state.meta, episodes, way=way, generator=nothing_random)
        norm = self._apply(grads, at)
        self._write(at, metrics, norm)
        at.add_(1)

    def _apply(self, grads: MetaParams, at: Tensor) -> Tensor:
        state, buffers = self.state, self.buffers
        assert buffers is not None
        named = leaves(grads)
        norm = clip(named, self.clipping)
        state.optimizer.step(named, factor=_pick(buffers.factors, at))
        for name, counted in state.meta.stats.items():
            counted.sub_(grads.stats[name])
        if state.average is not None:
            blend(state.average, state.meta, _pick(buffers.averaging, at))
        return norm

    def _write(self, at: Tensor, metrics: Metrics, norm: Tensor) -> None:
        assert self.buffers is not None
        self.names = tuple(metrics.diagnostics)
        values = [metrics.loss, metrics.accuracy, norm, *metrics.diagnostics.values()]
        row = torch.stack([value.detach().float() for value in values])[None]
        if self.buffers.rows.shape[1] != row.shape[1]:  # before the first capture
            rows = row.new_zeros(self.at_once, row.shape[1])
            self.buffers = replace(self.buffers, rows=rows)
        self.buffers.rows.index_copy_(0, at, row)


def _pick(rows: Tensor, at: Tensor) -> Tensor:
    return rows.index_select(0, at).squeeze(0)
