"""What coordinatewise rules share: all weights as one list of coordinates, and gradients at a readable scale.

A rule that treats each coordinate alike (Andrychowicz et al., 2016, arXiv:1606.04474) sees tensors of any shapes as one
batch: its own weights do not depend on how many coordinates there are, nor on their order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kshot_models.types import Params

__all__ = ["coordinates", "count_coordinates", "log_and_sign", "shaped_like"]


def coordinates(tree: Params) -> Tensor:
    """All entries of all leaves, in the order of the names: (coordinates,)."""
    return torch.cat([leaf.reshape(-1) for leaf in tree.values()])


def count_coordinates(tree: Params) -> int:
    """How many entries the leaves have together."""
    return sum(leaf.numel() for leaf in tree.values())


def shaped_like(values: Tensor, tree: Params) -> Params:
    """The inverse of `coordinates`: (coordinates,) as leaves of the names and shapes of `tree`."""
    parts = torch.split(values, [leaf.numel() for leaf in tree.values()])
    return {name: part.reshape(leaf.shape) for (name, leaf), part in zip(tree.items(), parts, strict=True)}


def log_and_sign(values: Tensor, p: float) -> Tensor:
    """(log|v| / p, sign v) where |v| >= e^-p, else (-1, e^p v).

    Gradients span many orders of magnitude; these two numbers are of order 1 and keep both size and direction. The
    published code of the paper has max(log|v| / p, -1) and clamp(e^p v, -1, 1), which are the same two numbers.

    Args:
        values: (*shape).
        p: where the logarithm ends, 10 in the paper and 5 in its code.

    Returns:
        (2, *shape).
    """
    smallest = math.exp(-p)
    large = values.abs() >= smallest
    # Masked before the logarithm: its derivative at 0 would make the other branch's gradient NaN.
    log = torch.where(large, values.abs(), 1.0).log() / p
    return torch.stack([torch.where(large, log, -1.0), torch.where(large, values.sign(), values / smallest)])
