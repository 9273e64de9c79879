"""A linear classifier under cross-entropy, of tensors, by the kernels of kshot_models/native/head.py."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.batched.native.tensors import array
from kshot_models.native.head import loss_and_gradients

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, share: Tensor, present: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """sum_i share_i * -log softmax(weight features_i + bias)[target_i], over the classes that are present.

    Args:
        features: (n, features).
        weight: (way, features).
        bias: (way,).
        targets: (n,) class indices.
        share: (n,) of each example in the loss.
        present: (way,) 0 for classes that have no probability.

    Returns:
        the loss (), and the gradients of features, weight and bias.
    """
    of_features, of_weight, of_bias = torch.empty(features.shape), torch.empty(weight.shape), torch.empty(bias.shape)
    loss = torch.empty(1)
    given = array(features), array(weight), array(bias), targets.contiguous().numpy(), array(share), array(present)
    loss_and_gradients(*given, array(of_features), array(of_weight), array(of_bias), array(loss))
    return loss[0], of_features, of_weight, of_bias
