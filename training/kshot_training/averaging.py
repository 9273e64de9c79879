"""An exponential moving average of the meta-parameters, often better on unseen classes than the last step."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.tree import meta_map
from kshot_models.types import MetaParams

__all__ = ["average_weight", "blend", "start_average", "update_average"]


def start_average(meta: MetaParams) -> MetaParams:
    """A copy of `meta` for `update_average` to change."""
    return meta_map(torch.clone, meta)


def average_weight(decay: float, step: int) -> float:
    """The weight of the meta-parameters after outer step `step` in their average: 1 - d, see update_average."""
    return 1 - min(decay, (1 + step) / (10 + step))


def update_average(average: MetaParams, meta: MetaParams, *, decay: float, step: int) -> None:
    """average <- d average + (1 - d) meta in place, with d = min(decay, (1 + step) / (10 + step)).

    The smaller early decay forgets the random start within tens of steps instead of thousands.

    Args:
        average: Changed in place.
        meta: The meta-parameters after outer step `step`.
        decay: Below 1; 0.999 averages over about a thousand steps.
        step: Outer steps taken before this one.
    """
    blend(average, meta, average_weight(decay, step))


def blend(average: MetaParams, meta: MetaParams, weight: float | Tensor) -> None:
    """average <- (1 - weight) average + weight meta in place; a weight that is a tensor is never read by the host."""
    for kept, new in zip(average, meta, strict=True):
        for name, tensor in kept.items():
            tensor.lerp_(new[name], weight)
