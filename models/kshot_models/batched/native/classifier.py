"""Blocks and a linear head for tasks as predictors of tensors, by the kernels of kshot_models/native/classifier.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_models.batched.native.tensors import array
from kshot_models.native import classifier
from kshot_models.native.jit import Array4

__all__ = ["Classifier"]


class Classifier:
    """Logits (n, way) of inputs (n, channels, height, width); see native.classifier.Classifier. Thread-safe.

    Args:
        params: filters (outside, 3, 3, inside), gain, bias, mean and variance (outside,) of each block, one after the
            other; referred to where they are contiguous, copied where not.
        weight: of the head, (way, features).
        bias: (way,).
        stride: of the convolutions.
        pool: whether maxima of 2x2 positions are taken.
        epsilon: added to variances.
        mean: the head has the mean over positions in place of all positions.

    Raises:
        TypeError: something is not float32.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int,
        pool: bool,
        epsilon: float,
        mean: bool,
    ) -> None:
        self.of_arrays = classifier.Classifier(
            [array(each) for each in params],
            array(weight),
            array(bias),
            stride=stride,
            pool=pool,
            epsilon=epsilon,
            mean=mean,
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """The logits."""
        return torch.from_numpy(self.of_arrays(_images(inputs)))

    def together(self, others: Sequence[object], inputs: Tensor, counts: Sequence[int]) -> list[Tensor] | None:
        """See serving.Joins."""
        kind = self.of_arrays.kind
        alike = [each.of_arrays for each in others if isinstance(each, Classifier) and each.of_arrays.kind == kind]
        if len(alike) != len(others):
            return None
        return [torch.from_numpy(logits) for logits in classifier.classify(alike, _images(inputs), counts)]


def _images(inputs: Tensor) -> Array4:
    return array(inputs.movedim(1, -1))
