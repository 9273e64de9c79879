"""Orders of a support set that follow from its content, for what reads it as a sequence.

A session is the same in whatever order its examples came, and so must be its answers. So a sequence model never sees
the order of arrival: each image gets a key, its inner product with a fixed pseudo-random direction, and the examples
stand in the order of their keys. Several directions give several orders, over which the models average.

Keys are computed in double precision from the pixels themselves, not from embeddings, so that no rounding of another
machine, batch or padding can exchange two examples. Only equal images keep the order of arrival between them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["content_orders"]


def content_orders(inputs: Tensor, weights: Tensor, orders: int) -> Tensor:
    """Indices (orders, n) that sort the examples by their keys; padding comes first.

    Args:
        inputs: (n, *x).
        weights: (n,) 0 for padding.
        orders: how many.
    """
    flat = inputs.detach().flatten(1).to(torch.float64)
    directions = torch.from_numpy(_directions(orders, flat.shape[1])).to(flat.device)
    keys = (directions @ flat.T).masked_fill(weights == 0, -torch.inf)
    return keys.argsort(dim=1, stable=True)


@lru_cache(maxsize=32)
def _directions(orders: int, size: int) -> NDArray[np.float64]:
    """Pseudo-random (orders, size) in [-1, 1), the same on every machine; the first rows do not depend on `orders`.

    splitmix64 of the place (Steele et al., 2014): integer arithmetic, which no library version changes.
    """
    z = (np.arange(orders * size, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    values: NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0
    return values.reshape(orders, size)
