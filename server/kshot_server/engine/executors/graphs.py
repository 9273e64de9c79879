"""CUDA graphs of an executor's computations, one for each size that comes again.

A batch is hundreds of small kernels, which a host launches more slowly than a GPU runs them. So a computation on
tensors of certain shapes is captured when it comes for the second time, and played again from then on: its arguments
are copied to where the captured kernels read them, and its results are where these write them, until the next time.
The first time it runs as it is, which is also what a capture needs: kernels are compiled and measured, libraries have
their handles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Graphs"]

_MOST = 64  # each holds the memory of its activations

Compute = Callable[..., Any]


@dataclass
class _Captured:
    graph: Any  # torch.cuda.CUDAGraph, which builds without CUDA do not have
    arguments: list[Tensor]
    results: Any


class Graphs:
    """Runs computations on a device, from captured graphs where it has them. For one thread at a time.

    Args:
        device: on `cpu` everything runs as it is.
        most: graphs that are kept; the one that was not used for longest goes.
    """

    def __init__(self, device: str, *, most: int = _MOST) -> None:
        self.device, self.most = torch.device(device), most
        self._seen: set[Hashable] = set()
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()

    def run(
        self, key: Hashable, compute: Compute, arguments: Sequence[Tensor], *, waits_for_device: bool = False
    ) -> Any:
        """The results of `compute(*arguments)`; they are only good until the next call.

        Args:
            key: names the computation and the shapes of its arguments.
            compute: tensors on the device to tensors, or to a tree of them.
            arguments: on the device, or in memory that it copies from.
            waits_for_device: whether `compute` does, as what runs on the host does; then it cannot be captured.
        """
        if self.device.type != "cuda":
            return compute(*arguments)
        if key in self._captured:
            self._captured.move_to_end(key)
            return self._play(self._captured[key], arguments)
        there = [argument.to(self.device, non_blocking=True) for argument in arguments]
        if waits_for_device:
            return compute(*there)
        if key not in self._seen:
            self._seen.add(key)
            return compute(*there)
        self._captured[key] = self._capture(compute, there)
        if len(self._captured) > self.most:
            self._captured.popitem(last=False)
        return self._play(self._captured[key], there)

    def _play(self, captured: _Captured, arguments: Sequence[Tensor]) -> Any:
        for kept, new in zip(captured.arguments, arguments, strict=True):
            kept.copy_(new, non_blocking=True)
        captured.graph.replay()
        return captured.results

    def _capture(self, compute: Compute, arguments: Sequence[Tensor]) -> _Captured:
        kept = [argument.clone() for argument in arguments]
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: tests of the same process, another engine.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = compute(*kept)
        return _Captured(graph, kept, results)
