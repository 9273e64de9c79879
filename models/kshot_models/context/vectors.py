"""Lengths of vectors."""

from __future__ import annotations

from torch import Tensor

__all__ = ["unit"]

_TINY = 1e-12  # the square of a length that counts as none: the gradient of 0 / |0| stays finite


def unit(vectors: Tensor) -> Tensor:
    """(n, size) scaled to length 1; 0 stays 0."""
    return vectors * (vectors.square().sum(-1, keepdim=True) + _TINY).rsqrt()
