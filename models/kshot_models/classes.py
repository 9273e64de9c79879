"""Which classes a support set has: a padded way must neither be answered nor be felt by the others."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.types import Examples, Predictor

__all__ = ["class_members", "mask_absent", "masked", "present_classes"]


def class_members(support: Examples, way: int, dtype: torch.dtype) -> Tensor:
    """How much of each example belongs to each class: (n, way), rows of padding 0."""
    # Compared, not one_hot: that one looks at the values, which vmap forbids and which a device must be waited for.
    member = (support.targets[:, None] == torch.arange(way, device=support.targets.device)).to(dtype)
    return member * support.weights[:, None]


def present_classes(support: Examples, way: int) -> Tensor:
    """(way,) 1 where the support set has an example of the class, else 0."""
    return (class_members(support, way, support.weights.dtype).sum(0) > 0).to(support.weights.dtype)


def mask_absent(logits: Tensor, present: Tensor) -> Tensor:
    """Logits (q, way) with the least finite number in the columns of absent classes: probability and gradient 0."""
    return logits.masked_fill(present == 0, torch.finfo(logits.dtype).min)


def masked(logits: Predictor | None, present: Tensor) -> Predictor | None:
    """`mask_absent` of all that a predictor answers."""
    if logits is None or bool(present.all()):
        return logits
    return lambda inputs: mask_absent(logits(inputs), present)
