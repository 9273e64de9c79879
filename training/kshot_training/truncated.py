"""Truncated backpropagation through the work of a learned optimizer: one stretch of it an outer step.

    problem drawn ──stretch──> outer step ──stretch──> outer step ── ... horizon reached: the next problem is drawn
                     state and parameters go on, gradients do not

Where the current problem stands is a part of where training stands: `tensors` and `load` take it through a checkpoint,
and the problem itself is drawn again from its number.

Reference: Andrychowicz et al., 2016, arXiv 1606.04474; the meta-loss and its truncation are those of its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from kshot_models.tree import prefixed, tree_map, under
from kshot_models.types import MetaParams, Params
from kshot_training.meta_gradients.base import Metrics
from kshot_training.problems import Family, Optimizee
from kshot_training.unroll import Unroll, Walk, begin

__all__ = ["Truncated"]


class Truncated:
    """The gradient of one stretch after another.

    Args:
        unroll: a stretch.
        family: training problems.
        tasks: of each problem, side by side.
        horizon: outer step -> how long a problem that is drawn then is worked on; a multiple of the stretch.
    """

    def __init__(self, unroll: Unroll, family: Family, *, tasks: int, horizon: Callable[[int], int]) -> None:
        self._unroll, self._family, self._tasks, self._horizon = unroll, family, tasks, horizon
        self._number, self._until = -1, 0
        self._problem: Optimizee | None = None
        self._walk: Walk | None = None

    def gradient(self, meta: MetaParams, step: int) -> tuple[MetaParams, Metrics]:
        """The gradient of the next stretch by `meta.inner`, at outer step `step`."""
        phi = tree_map(lambda leaf: leaf.detach().requires_grad_(), meta.inner)
        if self._problem is None or self._walk is None or self._walk.taken >= self._until:
            self._number, self._until = self._number + 1, self._horizon(step)
            self._problem = self._family.draw(self._number, self._tasks)
            self._walk = begin(self._unroll.rule, meta.inner, self._problem)
        loss, final, walk = self._unroll(phi, self._problem, self._walk)
        grads = torch.autograd.grad(loss, list(phi.values()), allow_unused=True, materialize_grads=True)
        self._walk = Walk(
            tree_map(torch.Tensor.detach, walk.params),
            tuple(part.detach() for part in walk.state),
            walk.taken,
            tree_map(torch.Tensor.detach, walk.memory),
        )
        seen = Metrics(loss.detach(), loss.new_full((), torch.nan), {"final_loss": final.mean()})
        return MetaParams({}, dict(zip(phi, grads, strict=True)), {}), seen

    def tensors(self) -> tuple[Params, dict[str, int]]:
        """Where the current problem stands, for a checkpoint: tensors, and values that are none."""
        values = {"number": self._number, "until": self._until, "taken": 0}
        if self._walk is None:
            return {}, values
        state = {f"state/{i}": part for i, part in enumerate(self._walk.state)}
        memory = prefixed("memory/", self._walk.memory)
        return {**prefixed("params/", self._walk.params), **state, **memory}, {**values, "taken": self._walk.taken}

    def load(self, tensors: Params, values: Mapping[str, Any]) -> None:
        """Put back what `tensors` returned."""
        self._number, self._until = values["number"], values["until"]
        if not tensors:
            return
        self._problem = self._family.draw(self._number, self._tasks)
        # In the order of the problem's own parameters: a file sorts its names.
        params = {name: tensors[f"params/{name}"] for name in self._problem.start}
        state = tuple(tensors[f"state/{i}"] for i in range(len(under("state/", tensors))))
        memory = {name: tensors[f"memory/{name}"] for name in self._problem.memory}
        self._walk = Walk(params, state, values["taken"], memory)
