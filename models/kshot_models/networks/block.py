"""What blocks of Conv4 have in common, however they are computed.

out = relu(maxpool(norm(filters * images)))        pooling where wanted, else a stride
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BlockShape"]


class BlockShape(NamedTuple):
    """What does not change from call to call. Filters are 3x3, padding 1, pooling 2x2."""

    stride: int
    pool: bool
    epsilon: float
