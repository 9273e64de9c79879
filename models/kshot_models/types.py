"""The few types that everything else is said in.

    Params      dict[str, Tensor], flat; names as in a state_dict ("body.conv1.weight")
    Examples    a labelled set; weight 0 marks padding
    Episode     a support and a query set of one task; training only
    MetaParams  what training made
    TaskParams  what adaptation made
    Learner     adapt and predict, both pure

Shapes: n examples, *x the shape of one input, way classes. A `tasks` axis in front comes from vmap or a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

__all__ = ["Episode", "Examples", "Learner", "MetaParams", "Params", "Predictor", "TaskParams"]

Params: TypeAlias = dict[str, Tensor]
TaskParams: TypeAlias = Params


class Examples(NamedTuple):
    """A labelled set of examples."""

    inputs: Tensor  # (n, *x)
    targets: Tensor  # (n,) class indices below `way`, int64; or float targets of a regression
    weights: Tensor  # (n,) 1 for an example, 0 for padding


class Episode(NamedTuple):
    """One sampled task: adapt to `support`, be judged on `query`."""

    support: Examples
    query: Examples


class MetaParams(NamedTuple):
    """All that meta-training learned."""

    init: Params  # the network and the head before adaptation
    inner: Params  # what the inner optimizer learned: rates, gates, moments; empty for plain SGD
    stats: Params  # statistics that are counted, not learned by gradient


Predictor: TypeAlias = Callable[[Tensor], Tensor]
"""Inputs (q, *x) -> logits (q, way), for one task."""


class Learner(Protocol):
    """Learns a task from its support set.

    Pure: the same arguments give the same answer; nothing is stored, read or changed; no device is chosen. Both verbs
    run under torch.func.vmap and are differentiable with respect to `meta`.
    """

    def init(self, generator: torch.Generator) -> MetaParams:
        """Fresh meta-parameters, float32 on the CPU, drawn from `generator`."""
        ...

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        """Learn the task of `support`.

        Args:
            meta: the meta-parameters.
            support: inputs (n, *x), targets (n,), weights (n,). Entries of weight 0 change nothing.
            way: number of classes, counting padding. A class without an example is never answered.
        """
        ...

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        """The task parameters before the first inner step and after each; `adapt` gives the last of these."""
        ...

    def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """Logits (q, way) of inputs (q, *x). `weights` (q,) mark padding; only transductive norms look at it."""
        ...
