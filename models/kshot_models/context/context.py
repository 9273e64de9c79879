"""What a context is: it reads the embedded support set once, and answers each query from what it kept.

    support embeddings, classes ──read──> context ──answer── query embeddings ──> logits

Embeddings come from the context learner, which takes away the mean of the support set and scales each to length 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kshot_models.types import Examples, Params

__all__ = ["Answer", "Context", "Read"]


class Read(Protocol):
    """Adaptation: one pass over the support set."""

    def __call__(self, params: Params, features: Tensor, support: Examples, way: int) -> Params:
        """Read the support set.

        Args:
            params: the context's meta-parameters.
            features: support embeddings (n, features) of length 1; rows of weight 0 are padding and hold anything.
            support: the support set.
            way: number of classes.

        Returns:
            what `answer` needs: floating-point tensors without infinities, as sessions store them.
        """
        ...


class Answer(Protocol):
    """Prediction: each query on its own."""

    def __call__(self, params: Params, context: Params, features: Tensor) -> Tensor:
        """Logits (q, way) of query embeddings (q, features); those of absent classes mean nothing."""
        ...


class Context(NamedTuple):
    """A way to read a support set."""

    init: Callable[[torch.Generator], Params]
    read: Read
    answer: Answer
