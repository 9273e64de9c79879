"""What a head is: from meta-parameters and the support embedding to the weights of a linear classifier.

A head with `fixed_way` None answers any number of classes in any order; its fast weights have one row a class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kshot_models.types import Examples, Params

__all__ = ["Head", "Start", "linear_logits"]


class Start(Protocol):
    """The head's fast weights before the first inner step."""

    def __call__(self, params: Params, embed: Callable[[], Tensor], support: Examples, way: int) -> Params:
        """Make them.

        Args:
            params: the head's meta-parameters.
            embed: gives the support features (n, features) when called; a head that needs none does not call it.
            support: the support set.
            way: number of classes.

        Returns:
            weight (way, features) and bias (way,).
        """
        ...


class Head(NamedTuple):
    """A linear classifier over features, and where it starts."""

    init: Callable[[torch.Generator], Params]
    start: Start
    template: Callable[[], Params]  # zeros shaped like the fast weights, rows of length 1 where the way is free
    fixed_way: int | None


def linear_logits(features: Tensor, weights: Params) -> Tensor:
    """features (q, features) -> logits (q, way)."""
    return features @ weights["weight"].T + weights["bias"]
