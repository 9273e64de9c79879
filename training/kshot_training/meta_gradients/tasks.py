"""What the meta-gradients share: taking a meta-batch apart, running its tasks, and putting the results together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from kshot_models.types import Episode, Examples, MetaParams, Params
from kshot_training.meta_gradients.base import Metrics

__all__ = [
    "Batching",
    "Item",
    "Result",
    "TaskMap",
    "accuracy",
    "as_gradient",
    "batched_mean",
    "mean_in_order",
    "mean_metrics",
    "split_tasks",
    "sum_in_order",
    "task_map",
    "trained_tensors",
    "with_tensors",
    "zeros_like",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

Batching = Literal["loop", "vmap"]


class TaskMap(Protocol):
    """`map`, perhaps on several threads."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]:
        """The results of `function`, in the order of `items`."""
        ...


def split_tasks(episodes: Episode) -> list[Episode]:
    """Take the leading tasks axis of a meta-batch apart into single episodes; views, no copies."""
    support = zip(*(t.unbind() for t in episodes.support), strict=True)
    query = zip(*(t.unbind() for t in episodes.query), strict=True)
    return [Episode(Examples(*s), Examples(*q)) for s, q in zip(support, query, strict=True)]


def task_map(workers: int) -> TaskMap:
    """A `map` over tasks that keeps their order, so that sums do not depend on which thread was faster.

    With several workers each task runs on one thread of its own: on small tensors two tasks side by side beat one task
    on two threads. torch's own thread count should then be 1 (`torch.set_num_threads`).
    """
    if workers == 1:
        return map
    return ThreadPoolExecutor(workers, thread_name_prefix="kshot-task").map


def accuracy(logits: Tensor, examples: Examples) -> Tensor:
    """Share of right answers among the examples of weight 1; NaN where targets are no classes."""
    if examples.targets.is_floating_point():
        return logits.new_full((), torch.nan)
    right = (logits.argmax(-1) == examples.targets).to(examples.weights.dtype)
    return (right * examples.weights).sum() / examples.weights.sum()


def mean_metrics(metrics: Sequence[Metrics]) -> Metrics:
    """The mean over tasks."""
    return Metrics(
        torch.stack([seen.loss for seen in metrics]).mean(),
        torch.stack([seen.accuracy for seen in metrics]).mean(),
        {name: torch.stack([seen.diagnostics[name] for seen in metrics]).mean() for name in metrics[0].diagnostics},
    )


def sum_in_order(results: Iterable[tuple[tuple[Tensor, ...], Metrics]]) -> tuple[list[Tensor], list[Metrics]]:
    """Add up per-task tensors in the order of the tasks, holding one task's beside the running sum."""
    sums: list[Tensor] = []
    metrics = []
    for tensors, seen in results:
        metrics.append(seen)
        if sums:
            for total, tensor in zip(sums, tensors, strict=True):
                total.add_(tensor)
        else:  # a gradient may be a view of something that the graph still shares
            sums = [tensor.clone() for tensor in tensors]
    return sums, metrics


def mean_in_order(
    meta: MetaParams, results: Iterable[tuple[tuple[Tensor, ...], Metrics]]
) -> tuple[MetaParams, Metrics]:
    """The mean over tasks of gradients ordered as `as_gradient` takes them, shaped like `meta`, and of the metrics."""
    sums, metrics = sum_in_order(results)
    return as_gradient(meta, [total.div_(len(metrics)) for total in sums]), mean_metrics(metrics)


def batched_mean(
    one: Callable[[Item], tuple[Sequence[Tensor], Metrics]],
    meta: MetaParams,
    episodes: Item,
    chunk_size: int | None,
) -> tuple[MetaParams, Metrics]:
    """The same mean, with `one` run on all tasks as one computation, or on `chunk_size` of them at a time."""
    grads, seen = torch.func.vmap(one, chunk_size=chunk_size)(episodes)
    diagnostics = {name: each.mean() for name, each in seen.diagnostics.items()}
    mean = as_gradient(meta, [grad.mean(0) for grad in grads])
    return mean, Metrics(seen.loss.mean(), seen.accuracy.mean(), diagnostics)


def trained_tensors(meta: MetaParams) -> list[Tensor]:
    """The tensors that have a gradient: `init`, then `inner`, in their order."""
    return [*meta.init.values(), *meta.inner.values()]


def with_tensors(meta: MetaParams, tensors: Iterable[Tensor]) -> MetaParams:
    """Put `tensors`, ordered as `trained_tensors`, in the places of `meta`; `stats` stay."""
    values = iter(tensors)
    init = {name: next(values) for name in meta.init}
    return MetaParams(init, {name: next(values) for name in meta.inner}, meta.stats)


def as_gradient(meta: MetaParams, tensors: Iterable[Tensor]) -> MetaParams:
    """Put `tensors` in the places of `meta`: as `trained_tensors` are ordered, then, if any, what moves `stats`."""
    values = iter(tensors)
    init = {name: next(values) for name in meta.init}
    inner = {name: next(values) for name in meta.inner}
    counted = list(values)
    return MetaParams(init, inner, dict(zip(meta.stats, counted, strict=True)) if counted else zeros_like(meta.stats))


def zeros_like(params: Params) -> Params:
    """Zeros of the same names and shapes."""
    return {name: torch.zeros_like(tensor) for name, tensor in params.items()}
