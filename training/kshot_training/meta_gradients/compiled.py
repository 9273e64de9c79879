"""A meta-gradient as one compiled program: for learners so small that Python costs more than arithmetic.

    first call with such episodes     trace ──> a flat graph of tensor operations ──> torch.compile ──> program
    every other call                  program(meta-parameters, episodes)

A step of MAML on sine waves is some 400 operations on tensors of a few kilobytes; differentiating twice inside vmap
costs far more in bookkeeping. The trace has none of it: gradients are operations like others in it.
Compiling takes as long as thousands of steps, and a C++ compiler (on CUDA, Triton): once for each way and size of
episodes.
"""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from kshot_models.types import Episode, Learner, MetaParams
from kshot_training.meta_gradients.base import MetaGradient, Metrics

__all__ = ["compiled"]


def compiled(meta_gradient: MetaGradient) -> MetaGradient:
    """Make the same meta-gradient, traced and compiled.

    Sums may run in another order than in the original. What depends on the values of tensors cannot be traced, and
    what is random would be the same in each call: the original has to be free of both, as `through_adaptation` is.

    Args:
        meta_gradient: Takes the tasks of a meta-batch as one computation.
    """
    programs: dict[tuple[object, ...], tuple[Learner, MetaGradient]] = {}

    def run(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        shapes = tuple(tensor.shape for part in episodes for tensor in part)
        key = (id(learner), way, shapes)
        if key not in programs:
            # The learner is kept too, or another one could come to have its id.
            programs[key] = learner, _program(meta_gradient, learner, meta, episodes, way, generator)
        return programs[key][1](learner, meta, episodes, way=way, generator=generator)

    return run


def _program(
    meta_gradient: MetaGradient,
    learner: Learner,
    meta: MetaParams,
    episodes: Episode,
    way: int,
    generator: torch.Generator,
) -> MetaGradient:
    def plain(meta: MetaParams, episodes: Episode) -> tuple[MetaParams, Metrics]:
        return meta_gradient(learner, meta, episodes, way=way, generator=generator)

    graph = make_fx(plain)(meta, episodes)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    program = torch.compile(graph)

    def run(
        learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        del learner, way, generator  # they are in the program
        grads, metrics = program(meta, episodes)
        return MetaParams(*grads), Metrics(*metrics)

    return run
